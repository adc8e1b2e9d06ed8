// Package ledger keeps lots, device records and events in a database: SQLite in
// one file by default, PostgreSQL for many stations. Every state change is a compare-and-set on one record,
// written in one transaction with its event; the changes of many workers share
// one durable commit.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"keymill/pipeline"
)

// ErrNoLot says that the ledger holds no lot of that name.
var ErrNoLot = errors.New("the ledger has no such lot")

// ErrNoRecord says that the lot holds no device of that identity.
var ErrNoRecord = pipeline.ErrNoDevice

// ErrLotExists is returned by Plan for a name that is taken.
var ErrLotExists = errors.New("the ledger has a lot of this name already")

// ErrLotClosed is returned by CloseLot for a lot that is closed already.
var ErrLotClosed = errors.New("the lot is closed already")

var _ pipeline.Ledger = (*Ledger)(nil)

// lotLogs says that each lot has a log of its own at each station; else a
// station's events go into its one log of the first format.
const lotLogs = true

var errNoStation = errors.New("an event must name its station, whose log it goes to")

// backend is what differs between the databases.
type backend interface {
	// pool serves whatever reads.
	pool() *sql.DB
	// begin opens a transaction for Commit and Append, one at a time.
	begin(ctx context.Context) (group, error)
	// transact runs fn in a transaction of its own, durable when transact
	// returns nil and undone when it returns an error.
	transact(ctx context.Context, fn func(*sql.Tx) error) error
	// alone makes the transaction wait until no other is alone, so that what it
	// has read and then counts up or compares stays true.
	alone(ctx context.Context, tx *sql.Tx) error
	// now returns the time by which leases are judged, in microseconds; q is the
	// database or a transaction.
	now(ctx context.Context, q rower, clock func() time.Time) (int64, error)
	// lockRows makes the transaction the only one that changes the records that query
	// selects, where the database locks rows one by one.
	lockRows(ctx context.Context, tx *sql.Tx, query string, args ...any) error
	// rewrite returns a query whose placeholders appear once each and in their
	// order in the form that the driver binds fastest.
	rewrite(query string) string
	// transient says that a transaction failed only for others that ran at the
	// same time, and may be tried again.
	transient(err error) bool
	// explain turns the database's error into an *pipeline.Outage, and leaves
	// all others as they are.
	explain(err error) error
	// backup, check and vacuum do what Backup, Check and Vacuum say, as far as
	// the database is concerned.
	backup(ctx context.Context, path string) error
	check(ctx context.Context) (problems []string, err error)
	vacuum(ctx context.Context) error
	close() error
}

// Ledger is an open ledger. All methods may be called by many goroutines at
// once, and several processes may have the same ledger open. It implements
// pipeline.Ledger. What fails in the database is an *pipeline.Outage.
type Ledger struct {
	backend backend
	db      *sql.DB // the backend's pool
	writer  *writer
	clock   func() time.Time
	lotLogs bool // see the constant

	closing  sync.Once
	closeErr error // written in closing

	mu       sync.RWMutex
	lotIDs   map[string]int64       // guarded by mu; lots and stations are never removed or renamed
	lotNames map[int64]string       // guarded by mu
	logs     map[int64]pipeline.Log // guarded by mu; what of logs never changes
	begun    map[logKey]bool        // guarded by mu; logs that are there to take events
}

// Open opens the ledger at path, and makes it (mode 0600) when there is none. A
// path that begins with postgres:// or postgresql:// is the URL of a PostgreSQL
// database, whose schema "keymill", unless search_path names another, is the
// ledger; passwords come from a password file (PGPASSFILE) or the environment.
// Open's errors are *pipeline.Outage with a hint: the file is no keymill
// ledger, was made by a newer keymill, can't be written, is locked, the disk is
// full, the database can't be reached.
func Open(ctx context.Context, path string) (*Ledger, error) {
	var b backend
	var err error
	if strings.HasPrefix(path, "postgres://") || strings.HasPrefix(path, "postgresql://") {
		b, err = openPostgres(ctx, path)
	} else {
		b, err = openSQLite(ctx, path, sqliteLockWait)
	}
	if err != nil {
		return nil, err
	}
	return newLedger(ctx, b, time.Now), nil
}

func newLedger(ctx context.Context, b backend, clock func() time.Time) *Ledger {
	return &Ledger{
		backend: b, db: b.pool(), clock: clock, writer: newWriter(ctx, b, clock), lotLogs: lotLogs,
		lotIDs: map[string]int64{}, lotNames: map[int64]string{}, logs: map[int64]pipeline.Log{}, begun: map[logKey]bool{},
	}
}

// Close waits for the commits under way and closes the ledger. Closing it again
// does nothing.
func (l *Ledger) Close() error {
	l.closing.Do(func() {
		l.writer.close()
		l.closeErr = l.backend.explain(l.backend.close())
	})
	return l.closeErr
}

// Commit writes one change and its event; see pipeline.Ledger. The record is
// addressed by its Lot and Row; it must be in state c.From, under
// c.Record.Lease, and superseded or not as c.Record says, else
// pipeline.ErrLost is returned and nothing is written. A context that ends
// while Commit waits ends the wait: the change may be in the ledger or not.
// After an *pipeline.Outage the ledger takes no more.
func (l *Ledger) Commit(ctx context.Context, c pipeline.Change) error {
	if c.Event.Station == "" {
		return errNoStation
	}
	c.Event.Seq = 0
	lot, err := l.lotID(ctx, c.Record.Lot)
	if err != nil {
		return err
	}
	p := &pending{
		id: deviceID(lot, c.Record.Row), lot: lot, log: l.logOf(lot), from: c.From,
		record: *c.Record, event: c.Event, details: c.Details, done: make(chan struct{}, 1),
	}
	if by := c.Record.Superseded; by != "" {
		if p.superseded, err = l.lotID(ctx, by); err != nil {
			return err
		}
	}
	if c.Details {
		if p.predecessor, err = l.refID(ctx, c.Record.Predecessor); err != nil {
			return err
		}
		if p.successor, err = l.refID(ctx, c.Record.Successor); err != nil {
			return err
		}
	}
	if err := l.begin(ctx, c.Event.Station, p.log); err != nil {
		return err
	}
	if c.Scrap != "" {
		return l.commitScrapping(ctx, p, c.Scrap)
	}
	return l.writer.submit(ctx, p)
}

// Append writes an event that changes no record and returns its Seq. An event
// of a lot that was never planned is refused with ErrNoLot. A context that ends
// while Append waits ends the wait: the event may be in the ledger or not.
func (l *Ledger) Append(ctx context.Context, e pipeline.Event) (int64, error) {
	if e.Station == "" {
		return 0, errNoStation
	}
	e.Seq = 0
	p := &pending{event: e, done: make(chan struct{}, 1)}
	if e.Lot != "" {
		var err error
		if p.lot, err = l.lotID(ctx, e.Lot); err != nil {
			return 0, err
		}
		p.log = l.logOf(p.lot)
	}
	if err := l.begin(ctx, e.Station, p.log); err != nil {
		return 0, err
	}
	if err := l.writer.submit(ctx, p); err != nil {
		return 0, err
	}
	return p.event.Seq, nil
}

// refID returns the id of a device, 0 for none.
func (l *Ledger) refID(ctx context.Context, ref pipeline.DeviceRef) (int64, error) {
	if ref.Lot == "" {
		return 0, nil
	}
	lot, err := l.lotID(ctx, ref.Lot)
	return deviceID(lot, ref.Row), err
}

// ref is the inverse of refID.
func (l *Ledger) ref(ctx context.Context, id int64) (pipeline.DeviceRef, error) {
	if id == 0 {
		return pipeline.DeviceRef{}, nil
	}
	lot, err := l.lotName(ctx, id>>rowBits)
	return pipeline.DeviceRef{Lot: lot, Row: deviceRow(id)}, err
}

// lotID returns the number of a lot, or ErrNoLot.
func (l *Ledger) lotID(ctx context.Context, name string) (int64, error) {
	l.mu.RLock()
	id, ok := l.lotIDs[name]
	l.mu.RUnlock()
	if ok {
		return id, nil
	}
	err := l.db.QueryRowContext(ctx, sqlLotID, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("%w: %q", ErrNoLot, name)
	}
	if err != nil {
		return 0, l.backend.explain(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lotIDs[name], l.lotNames[id] = id, name
	return id, nil
}

// lotName is the inverse of lotID; 0 is no lot.
func (l *Ledger) lotName(ctx context.Context, id int64) (string, error) {
	if id == 0 {
		return "", nil
	}
	l.mu.RLock()
	name, ok := l.lotNames[id]
	l.mu.RUnlock()
	if ok {
		return name, nil
	}
	if err := l.db.QueryRowContext(ctx, sqlLotName, id).Scan(&name); err != nil {
		return "", l.backend.explain(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lotNames[id] = name
	return name, nil
}

// Now returns the database's time, by which leases and heartbeats are judged.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	us, err := l.backend.now(ctx, l.db, l.clock)
	return time.UnixMicro(us).UTC(), l.backend.explain(err)
}
