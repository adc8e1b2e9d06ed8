package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"keymill/pipeline"
)

// ErrRetired says that a station was retired: the ledger takes nothing of it.
var ErrRetired = errors.New("this station was retired")

// errFrozen says that a log takes no more events.
var errFrozen = &pipeline.Outage{Part: pipeline.PartStorage,
	Err:  errors.New("the station's log takes no more events"),
	Hint: "Another process retired this station or restored its ledger meanwhile; see `keymill status`."}

// logKey names the log that a station has for a lot, 0 for its own.
type logKey struct {
	station string
	lot     int64
}

// logOf returns which of a station's logs takes the events of a lot.
func (l *Ledger) logOf(lot int64) int64 {
	if l.lotLogs {
		return lot
	}
	return 0
}

// begin makes sure that the station has a log for the lot.
func (l *Ledger) begin(ctx context.Context, station string, lot int64) error {
	key := logKey{station, lot}
	l.mu.RLock()
	begun := l.begun[key]
	l.mu.RUnlock()
	if begun {
		return nil
	}
	if l.writer.ended() {
		return errClosed
	}
	err := l.transact(ctx, func(tx *sql.Tx) error { return l.beginIn(ctx, tx, station, lot) })
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun[key] = true
	return nil
}

// beginIn does what begin does, in a transaction.
func (l *Ledger) beginIn(ctx context.Context, tx *sql.Tx, station string, lot int64) error {
	if strings.Contains(station, "/") || station == "keymill" {
		return pipeline.WithHint(fmt.Errorf("a station can't be named %q", station),
			"Give audit.station a name without slashes, and not keymill's own.")
	}
	last, found, err := logIn(ctx, tx, sqlLogOf, station, lot)
	if err != nil || found && !last.frozen && (last.kind != pipeline.LogLegacy || !l.lotLogs) {
		return err
	}
	if err := l.backend.alone(ctx, tx); err != nil { // and look again
		return err
	}
	if last, found, err = logIn(ctx, tx, sqlLogOf, station, lot); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, sqlNewStation, station); err != nil {
		return err
	}
	if err := notRetired(ctx, tx, station); err != nil {
		return err
	}
	switch {
	case found && !last.frozen && (last.kind != pipeline.LogLegacy || !l.lotLogs):
		return nil
	case !l.lotLogs:
		return newLog(ctx, tx, logRow{kind: pipeline.LogLegacy, station: station, epoch: 1, origin: pipeline.LegacyOrigin(station)})
	case lot == 0:
		return l.beginStation(ctx, tx, station, last)
	}
	return l.beginLot(ctx, tx, station, lot)
}

func notRetired(ctx context.Context, tx *sql.Tx, station string) error {
	var retired int64
	err := tx.QueryRowContext(ctx, sqlRetired, station).Scan(&retired)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && retired > 0 {
		err = fmt.Errorf("%w: %s", ErrRetired, station)
	}
	return err
}

// beginStation makes a station's own log. A log of the first format ends here;
// what it came to is the first event of the new one.
func (l *Ledger) beginStation(ctx context.Context, tx *sql.Tx, station string, old logRow) error {
	legacy := old.kind == pipeline.LogLegacy && old.size > 0
	if old.kind == pipeline.LogLegacy && !old.frozen {
		root, err := rootOf(ctx, tx, old)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqlFreeze, old.id, root); err != nil {
			return err
		}
		old.root = root
	}
	origin := pipeline.LogOrigin(station, "", 1)
	if err := newLog(ctx, tx, logRow{kind: pipeline.LogStation, station: station, epoch: 1, origin: origin, last: old.last}); err != nil {
		return err
	}
	if !legacy {
		return nil
	}
	return l.appendIn(ctx, tx, pipeline.Event{Station: station, Action: pipeline.ActionFrozen, Facts: old.facts()}, 0)
}

// beginLot makes the log of a lot at a station. The log of a lot that was begun
// in the first format first says where.
func (l *Ledger) beginLot(ctx context.Context, tx *sql.Tx, station string, lot int64) error {
	if err := l.beginIn(ctx, tx, station, 0); err != nil {
		return err
	}
	var name string
	if err := tx.QueryRowContext(ctx, sqlLotName, lot).Scan(&name); err != nil {
		return err
	}
	legacy, found, err := logIn(ctx, tx, sqlByOrigin, pipeline.LegacyOrigin(station))
	if err != nil {
		return err
	}
	begun := 0
	if found {
		after, last := legacy.bounds()
		if err := tx.QueryRowContext(ctx, sqlHasLot, after, last, lot).Scan(&begun); err != nil {
			return err
		}
	}
	err = newLog(ctx, tx, logRow{kind: pipeline.LogLot, station: station, lot: lot, epoch: 1,
		origin: pipeline.LogOrigin(station, name, 1), last: legacy.last})
	if err != nil || begun == 0 {
		return err
	}
	return l.appendIn(ctx, tx, pipeline.Event{Station: station, Lot: name, Action: pipeline.ActionContinued, Facts: legacy.facts()}, lot)
}

// RestartLog ends a log and begins its next epoch with the event, which becomes
// a log-restarted event that names the old origin, size and root beside its own
// facts. size and root are what was signed; they may be beyond what the ledger
// holds.
func (l *Ledger) RestartLog(ctx context.Context, origin string, size int64, root string, e pipeline.Event) error {
	var key logKey
	err := l.transact(ctx, func(tx *sql.Tx) error {
		if err := l.backend.alone(ctx, tx); err != nil {
			return err
		}
		old, found, err := logIn(ctx, tx, sqlByOrigin, origin)
		if err != nil {
			return err
		}
		if !found || old.frozen || old.kind == pipeline.LogLegacy {
			return fmt.Errorf("log %s can't be restarted: it is frozen, or there is none", origin)
		}
		held, err := rootOf(ctx, tx, old)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqlFreeze, old.id, held); err != nil {
			return err
		}
		if e.Lot, err = l.lotName(ctx, old.lot); err != nil {
			return err
		}
		next := old
		next.epoch++
		next.origin = pipeline.LogOrigin(old.station, e.Lot, next.epoch)
		if err := newLog(ctx, tx, next); err != nil {
			return err
		}
		key = logKey{old.station, old.lot}
		e.Station, e.Action = old.station, pipeline.ActionRestarted
		e.Facts = append(e.Facts, logFacts(origin, size, root)...)
		pipeline.SortAttrs(e.Facts)
		return l.appendIn(ctx, tx, e, old.lot)
	})
	if err == nil {
		l.mu.Lock()
		l.begun[key] = true
		l.mu.Unlock()
	}
	return err
}

// appendIn writes an event of the lot (0 for none) in a transaction, into a log
// that was begun.
func (l *Ledger) appendIn(ctx context.Context, tx *sql.Tx, e pipeline.Event, lot int64) error {
	return appendEvent(ctx, tx, e, l.logOf(lot), lot, l.clock())
}

// logRow is a log as the table holds it.
type logRow struct {
	id      int64
	origin  string
	kind    pipeline.LogKind
	station string
	lot     int64
	epoch   int
	size    int64
	last    int64
	frozen  bool
	root    string // once it is frozen
}

func scanLog(rows *sql.Rows) (r logRow, err error) {
	var frozen int64
	err = rows.Scan(&r.id, &r.origin, &r.kind, &r.station, &r.lot, &r.epoch, &r.size, &r.last, &frozen, &r.root)
	if r.kind == pipeline.LogLegacy {
		r.origin = pipeline.LegacyOrigin(r.station)
	}
	r.frozen = frozen != 0
	return r, err
}

// bounds returns the ids of its events, exclusive and inclusive.
func (r *logRow) bounds() (after, last int64) { return r.id << seqBits, r.id<<seqBits | r.size }

func (r *logRow) facts() []pipeline.Attr { return logFacts(r.origin, r.size, r.root) }

func logFacts(origin string, size int64, root string) []pipeline.Attr {
	return []pipeline.Attr{{Name: "origin", Value: origin}, {Name: "root", Value: root},
		{Name: "size", Value: strconv.FormatInt(size, 10)}}
}

// logIn returns the one log that a query finds.
func logIn(ctx context.Context, q querier, query string, args ...any) (logRow, bool, error) {
	found, err := collect(ctx, q, scanLog, query, args...)
	if err != nil || len(found) == 0 {
		return logRow{}, false, err
	}
	return found[0], true, nil
}

func newLog(ctx context.Context, tx *sql.Tx, r logRow) error {
	_, err := tx.ExecContext(ctx, sqlNewLog, r.origin, string(r.kind), r.station, r.lot, r.epoch, r.last)
	return err
}

// rootOf computes the root of a log's RFC 6962 tree from its leaves, base64.
func rootOf(ctx context.Context, q querier, log logRow) (string, error) {
	type leaf struct {
		id   int64
		hash []byte
	}
	var tree frontier
	after, last := log.bounds()
	for {
		page, err := collect(ctx, q, func(rows *sql.Rows) (l leaf, err error) {
			return l, rows.Scan(&l.id, &l.hash)
		}, sqlLeaves, after, last)
		if err != nil {
			return "", err
		}
		if len(page) == 0 {
			break
		}
		for _, l := range page {
			tree.push([sha256.Size]byte(l.hash))
		}
		after = page[len(page)-1].id
	}
	if tree.size != log.size {
		return "", fmt.Errorf("log %s lacks events: it has %d of %d", log.origin, tree.size, log.size)
	}
	root := tree.root()
	return base64.StdEncoding.EncodeToString(root[:]), nil
}

// frontier is the right edge of an RFC 6962 tree: the roots of its complete
// subtrees, the largest first.
type frontier struct {
	size  int64
	nodes [][sha256.Size]byte
}

func (f *frontier) push(leaf [sha256.Size]byte) {
	f.nodes = append(f.nodes, leaf)
	f.size++
	for n := f.size; n&1 == 0; n >>= 1 {
		last := len(f.nodes) - 1
		f.nodes = append(f.nodes[:last-1], nodeHash(f.nodes[last-1], f.nodes[last]))
	}
}

func (f *frontier) root() [sha256.Size]byte {
	if len(f.nodes) == 0 {
		return sha256.Sum256(nil)
	}
	root := f.nodes[len(f.nodes)-1]
	for i := len(f.nodes) - 2; i >= 0; i-- {
		root = nodeHash(f.nodes[i], root)
	}
	return root
}

func nodeHash(left, right [sha256.Size]byte) [sha256.Size]byte {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// Logs returns all logs, or, with a lot, its logs, those of the first format
// that hold events of it, and the station logs of its stations, in the order in
// which they began.
func (l *Ledger) Logs(ctx context.Context, lot string) ([]pipeline.Log, error) {
	query, args := sqlAllLogs, []any(nil)
	if lot != "" {
		id, err := l.lotID(ctx, lot)
		if err != nil {
			return nil, err
		}
		query, args = sqlLogsOfLot, []any{id}
	}
	rows, err := collect(ctx, l.db, scanLog, query, args...)
	if err != nil {
		return nil, l.backend.explain(err)
	}
	logs := make([]pipeline.Log, len(rows))
	for i, r := range rows {
		if logs[i], err = l.log(ctx, r); err != nil {
			return nil, err
		}
	}
	return logs, nil
}

func (l *Ledger) log(ctx context.Context, r logRow) (pipeline.Log, error) {
	lot, err := l.lotName(ctx, r.lot)
	return pipeline.Log{Station: r.station, Lot: lot, Epoch: r.epoch, Kind: r.kind, Origin: r.origin,
		Size: r.size, Last: fromMicros(r.last), Frozen: r.frozen}, err
}

// SaveHead keeps a signed checkpoint of a log.
func (l *Ledger) SaveHead(ctx context.Context, origin string, size int64, signed string) error {
	_, err := l.change(ctx, sqlSaveHead, origin, size, signed)
	return err
}

// Head returns the largest checkpoint that was kept of a log; 0 and "" when
// there is none.
func (l *Ledger) Head(ctx context.Context, origin string) (size int64, signed string, err error) {
	err = l.db.QueryRowContext(ctx, sqlHead, origin).Scan(&size, &signed)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, "", nil
	}
	return size, signed, l.backend.explain(err)
}

// LastEvent returns the time of the ledger's last event, the zero time when it
// has none. It never goes back, whatever the clock does.
func (l *Ledger) LastEvent(ctx context.Context) (time.Time, error) {
	var us int64
	err := l.db.QueryRowContext(ctx, sqlLastEvent).Scan(&us)
	return fromMicros(us), l.backend.explain(err)
}

// transact runs fn in a transaction of its own, again where it failed only for
// others that ran at the same time.
func (l *Ledger) transact(ctx context.Context, fn func(*sql.Tx) error) error {
	err := l.backend.transact(ctx, fn)
	for retries := 5; err != nil && retries > 0 && l.backend.transient(err); retries-- {
		err = l.backend.transact(ctx, fn)
	}
	return l.backend.explain(err)
}
