package ledger

import (
	"context"
	"database/sql"
	"iter"

	"keymill/pipeline"
)

// storedEvent is an event as it is read.
type storedEvent struct {
	id, lot   int64
	canonical []byte
	leaf      []byte
}

// Events yields the events of a lot ("" for all) log by log, in the order in
// which the logs began, and Seq. It reads page by page and holds no lock while
// the caller works.
func (l *Ledger) Events(ctx context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		if lot == "" {
			l.events(ctx, yield, sqlAllEvents, 0)
			return
		}
		id, err := l.lotID(ctx, lot)
		if err != nil {
			yield(pipeline.StoredEvent{}, err)
			return
		}
		if !l.events(ctx, yield, sqlLotEvents, 0, id) { // of the first format
			return
		}
		logs, err := collect(ctx, l.db, scanLog, sqlLogs+`WHERE lot = $1 ORDER BY id`, id)
		if err != nil {
			yield(pipeline.StoredEvent{}, l.backend.explain(err))
			return
		}
		for _, log := range logs {
			if !l.events(ctx, yield, sqlLogEvents, log.id<<seqBits, (log.id+1)<<seqBits-1) {
				return
			}
		}
	}
}

// LogEvents yields the events of one log, of all lots where it is one of the
// first format, from the one after the Seq after on.
func (l *Ledger) LogEvents(ctx context.Context, log pipeline.Log, after int64) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		row, found, err := logIn(ctx, l.db, sqlByOrigin, log.Origin)
		if err != nil {
			yield(pipeline.StoredEvent{}, l.backend.explain(err))
			return
		}
		if !found && log.Kind == pipeline.LogLegacy { // its origin is in the table as the station's name is
			row, found, err = logIn(ctx, l.db, sqlLogs+`WHERE station = $1 AND kind = 'legacy'`, log.Station)
		}
		if err != nil {
			yield(pipeline.StoredEvent{}, l.backend.explain(err))
		}
		if err != nil || !found { // a log that was not begun has no events
			return
		}
		l.events(ctx, yield, sqlLogEvents, row.id<<seqBits|after, (row.id+1)<<seqBits-1)
	}
}

// events yields the events that a query finds page by page; its first argument
// is the id after which the page begins. It says whether to go on.
func (l *Ledger) events(ctx context.Context, yield func(pipeline.StoredEvent, error) bool, query string, args ...any) bool {
	for {
		page, err := collect(ctx, l.db, scanEvent, query, args...)
		if err != nil {
			yield(pipeline.StoredEvent{}, l.backend.explain(err))
			return false
		}
		if len(page) == 0 {
			return true
		}
		args[0] = page[len(page)-1].id
		for _, e := range page {
			event, err := l.event(ctx, e)
			if !yield(event, err) || err != nil {
				return false
			}
		}
	}
}

func scanEvent(rows *sql.Rows) (e storedEvent, err error) {
	return e, rows.Scan(&e.id, &e.lot, &e.canonical, &e.leaf)
}

func (l *Ledger) event(ctx context.Context, e storedEvent) (pipeline.StoredEvent, error) {
	event := pipeline.StoredEvent{Seq: e.id & (1<<seqBits - 1), Canonical: e.canonical}
	copy(event.Leaf[:], e.leaf)
	log, err := l.logByID(ctx, e.id>>seqBits)
	if err != nil {
		return event, err
	}
	event.Origin, event.Station, event.Epoch, event.Lot = log.Origin, log.Station, log.Epoch, log.Lot
	if e.lot != 0 {
		event.Lot, err = l.lotName(ctx, e.lot)
	}
	return event, err
}

// logByID returns what never changes of a log.
func (l *Ledger) logByID(ctx context.Context, id int64) (pipeline.Log, error) {
	l.mu.RLock()
	log, ok := l.logs[id]
	l.mu.RUnlock()
	if ok {
		return log, nil
	}
	row, found, err := logIn(ctx, l.db, sqlOneLog, id)
	if err == nil && !found {
		err = sql.ErrNoRows
	}
	if err != nil {
		return log, l.backend.explain(err)
	}
	if log, err = l.log(ctx, row); err != nil {
		return log, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs[id] = log
	return log, nil
}
