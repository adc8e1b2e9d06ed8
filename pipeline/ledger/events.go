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

// Events yields the events of a lot ("" for all) by station, in the order in
// which the stations wrote their first one, and Seq. It reads page by page and
// holds no lock while the caller works.
func (l *Ledger) Events(ctx context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		query, args := sqlAllEvents, []any{int64(0)}
		if lot != "" {
			id, err := l.lotID(ctx, lot)
			if err != nil {
				yield(pipeline.StoredEvent{}, err)
				return
			}
			query, args = sqlLotEvents, append(args, id)
		}
		for {
			page, err := collect(ctx, l.db, scanEvent, query, args...)
			if err != nil {
				yield(pipeline.StoredEvent{}, l.backend.explain(err))
				return
			}
			if len(page) == 0 {
				return
			}
			args[0] = page[len(page)-1].id
			for _, e := range page {
				event, err := l.event(ctx, e)
				if !yield(event, err) || err != nil {
					return
				}
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
	var err error
	if event.Station, err = l.stationName(ctx, e.id>>seqBits); err != nil {
		return event, err
	}
	event.Lot, err = l.lotName(ctx, e.lot)
	return event, err
}
