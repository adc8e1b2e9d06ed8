package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"keymill/pipeline"
)

// groupCap is how many changes share one transaction at most: beyond it a
// group gains little and keeps its first member waiting.
const groupCap = 512

// pending is one change, or one event without a change, on its way into the
// ledger. It holds copies, so that a caller who stopped waiting may go on with
// what it handed in.
type pending struct {
	id         int64 // of the record, 0 for an event without a change
	lot        int64
	log        int64 // the lot whose log takes the event, 0 for the station's own
	superseded int64 // lot
	from       pipeline.State
	record     pipeline.Record
	event      pipeline.Event

	details                bool  // record.Details changed, too
	predecessor, successor int64 // of record.Details, as ids

	lost bool
	err  error
	done chan struct{} // capacity 1; told once, when lost, err and event.Seq are final
}

// values returns the arguments of sqlUpdate.
func (p *pending) values(now time.Time) []any {
	r := &p.record
	return []any{
		string(r.State), int64(r.KeysGenerated), int64(r.KeysDestroyed),
		now.UnixMicro(), int64(r.Attempts), r.Station, r.Pack.Offset, r.Pack.Length,
		r.Algorithm, blob(r.PublicKey), blob(r.Replaces), text(r.Reason),
		text(r.Auth.DeviceID), text(r.Auth.AuthSetID), text(r.Auth.Status), text(r.Auth.RequestID), int64(r.Auth.HTTPStatus), int64(r.Auth.Attempts),
		r.Output.Name, r.Output.Bytes, r.Output.SHA256, r.Run, r.PackStation,
		p.id, string(p.from), r.Lease, p.superseded,
	}
}

// detailValues returns the arguments of sqlDetails.
func (p *pending) detailValues() []any {
	d := &p.record.Details
	return []any{
		text(d.HSM), d.Cert.Serial, d.Cert.SHA256, micros(d.Cert.NotBefore), micros(d.Cert.NotAfter),
		micros(d.Cert.Revoked), text(d.Cert.RevokedReason), d.Stale.Pack.Offset, d.Stale.Pack.Length, d.Stale.Output, d.Stale.Fingerprint,
		p.predecessor, p.successor, p.id,
	}
}

// micros and fromMicros translate times; 0 is the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// blob returns what stands for b in the database: NULL for none.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// text returns s as every database takes it: what is no UTF-8, and NUL, becomes
// U+FFFD. What servers and errors say may have either.
func text(s string) string {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// eventRow is one event as the table holds it.
type eventRow struct {
	id, lot   int64
	canonical []byte
	leaf      [sha256.Size]byte
}

// group is one transaction on the path of Commit and Append.
type group interface {
	// update changes the records of the given changes, and marks those as
	// lost whose records are not what the changes start from. now becomes the
	// time of their change.
	update(ctx context.Context, changes []*pending, now time.Time) error
	// reserve takes n sequence numbers of the log that the station has for a lot;
	// their time is now, or that of the last event when the clock went back. It is
	// errFrozen where there is no such log any more.
	reserve(ctx context.Context, station string, lot int64, n int, now time.Time) (reserved, error)
	insert(ctx context.Context, events []eventRow) error
	// commit returns when the group is durable.
	commit(ctx context.Context) error
	// rollback ends the transaction; after commit it does nothing.
	rollback(ctx context.Context)
}

// reserved is a run of sequence numbers of one log.
type reserved struct {
	log   int64
	next  int64
	time  time.Time
	epoch int
	kind  pipeline.LogKind
}

// row gives e the next number and returns the row to insert.
func (r *reserved) row(e *pipeline.Event, lot int64) eventRow {
	e.Seq, e.Time, e.Epoch, e.First = r.next, r.time, r.epoch, r.kind == pipeline.LogLegacy
	if !e.First {
		lot = 0 // its log says it
	}
	r.next++
	canonical := e.Canonical()
	return eventRow{id: r.log<<seqBits | e.Seq, lot: lot, canonical: canonical, leaf: pipeline.LeafHash(canonical)}
}

// writer gathers changes into groups. One goroutine writes; whatever arrives
// while a group is being made durable forms the next one, so the load itself
// sets the size of groups. Callers wait, so the queue is no longer than there
// are callers.
type writer struct {
	backend backend
	clock   func() time.Time

	mu     sync.Mutex
	queue  []*pending // guarded by mu
	err    error      // guarded by mu; once set, it refuses everything
	closed bool       // guarded by mu

	wake chan struct{} // capacity 1
	quit chan struct{} // closed when run has returned

	rows []eventRow // of the writing goroutine, reused from group to group
}

func newWriter(ctx context.Context, b backend, clock func() time.Time) *writer {
	w := &writer{backend: b, clock: clock, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	go w.run(context.WithoutCancel(ctx))
	return w
}

var errClosed = errors.New("the ledger is closed")

// submit queues p and waits until it is durable.
func (w *writer) submit(ctx context.Context, p *pending) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.enqueue(p); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("stopped waiting for the ledger: %w", ctx.Err())
	}
}

func (w *writer) enqueue(p *pending) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return errClosed
	}
	w.queue = append(w.queue, p)
	if len(w.queue) == 1 {
		w.nudge()
	}
	return nil
}

func (w *writer) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// close lets the queue drain and waits for that. It may be called again.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.nudge()
	w.mu.Unlock()
	<-w.quit
}

// ended says that the ledger was closed.
func (w *writer) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

func (w *writer) run(ctx context.Context) {
	defer close(w.quit)
	batch := make([]*pending, 0, groupCap)
	for range w.wake {
		for {
			// Those whom the last group answered get to hand in their next
			// change first: that makes groups larger and fewer.
			runtime.Gosched()
			var closed bool
			batch, closed = w.take(batch[:0])
			if len(batch) == 0 && closed {
				return
			}
			if len(batch) == 0 {
				break
			}
			w.answer(batch, w.write(ctx, batch))
		}
	}
}

// take moves up to groupCap changes from the queue to batch.
func (w *writer) take(batch []*pending) ([]*pending, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.queue), groupCap)
	batch = append(batch, w.queue[:n]...)
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
	return batch, w.closed
}

// answer tells every member of a group its outcome. An error of the group is
// the ledger's end: what is queued, and whatever comes, gets it too.
func (w *writer) answer(batch []*pending, err error) {
	if err != nil {
		w.mu.Lock()
		w.err = err
		batch = append(batch, w.queue...)
		w.queue = nil
		w.mu.Unlock()
	}
	for i, p := range batch {
		p.err = err
		if err == nil && p.lost {
			p.err = pipeline.ErrLost
		}
		p.done <- struct{}{}
		batch[i] = nil
	}
}

// write makes one group durable.
func (w *writer) write(ctx context.Context, batch []*pending) error {
	err := w.transact(ctx, batch)
	for retries := 3; err != nil && retries > 0 && w.backend.transient(err); retries-- {
		for _, p := range batch {
			p.lost, p.event.Seq = false, 0
		}
		err = w.transact(ctx, batch)
	}
	clear(w.rows)
	return w.backend.explain(err)
}

func (w *writer) transact(ctx context.Context, batch []*pending) error {
	g, err := w.backend.begin(ctx)
	if err != nil {
		return err
	}
	defer g.rollback(ctx)
	now := w.clock()
	if err := g.update(ctx, batch, now); err != nil {
		return err
	}
	if err := w.number(ctx, g, batch, now); err != nil {
		return err
	}
	if err := g.insert(ctx, w.rows); err != nil {
		return err
	}
	return g.commit(ctx)
}

// number gives the events of a group their sequence numbers and time, log by
// log, and leaves their rows in w.rows. Lost changes get no number, so that there
// are no gaps.
func (w *writer) number(ctx context.Context, g group, batch []*pending, now time.Time) error {
	w.rows = w.rows[:0]
	for i, p := range batch {
		if p.lost || p.event.Seq != 0 {
			continue
		}
		n := 0
		for _, q := range batch[i:] {
			if q.shares(p) {
				n++
			}
		}
		r, err := g.reserve(ctx, p.event.Station, p.log, n, now)
		if err != nil {
			return err
		}
		for _, q := range batch[i:] {
			if q.shares(p) {
				w.rows = append(w.rows, r.row(&q.event, q.lot))
			}
		}
	}
	return nil
}

// shares says that the event goes into the same log as another's.
func (p *pending) shares(other *pending) bool {
	return !p.lost && p.log == other.log && p.event.Station == other.event.Station
}
