package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// quick are times at which a dead worker's rows are taken over within seconds.
func quick() Times {
	return Times{Beat: 100 * time.Millisecond, Lease: 2 * time.Second, Renew: 300 * time.Millisecond,
		Job: 20 * time.Second, Rescue: 30 * time.Second, Sweep: 200 * time.Millisecond}
}

// books is an in-memory ledger whose leases run by one clock, as the database's
// do. It fails the test when a device is released twice.
type books struct {
	t  *testing.T
	mu sync.Mutex // guards all below

	lot     pipeline.Lot
	devices map[int]*device // by row
	retired map[string]string
}

type device struct {
	lease    string
	until    time.Time
	station  string // that staged it
	released string // by which station
}

func newBooks(t *testing.T, lot string, n int) *books {
	b := &books{t: t, lot: pipeline.Lot{Name: lot, Devices: n, Format: "pack"}, devices: map[int]*device{}, retired: map[string]string{}}
	for i := range n {
		b.devices[2+i] = &device{}
	}
	return b
}

// at is the shared ledger as one station sees it.
type at struct {
	*books
	station string
}

func (d *device) held(now time.Time) bool { return d.lease != "" && now.Before(d.until) }

func (a at) Claim(_ context.Context, _ string, first, last int, lease string, d time.Duration) ([]*pipeline.Record, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	station, _, _ := strings.Cut(lease, "/")
	var claimed []*pipeline.Record
	for row := first; row <= last; row++ {
		dev := a.devices[row]
		if dev == nil || dev.released != "" || dev.held(now) || dev.station != "" && dev.station != station {
			continue
		}
		dev.lease, dev.until = lease, now.Add(d)
		rec := &pipeline.Record{Lot: a.lot.Name, State: pipeline.Planned, Lease: lease}
		rec.Row = row
		claimed = append(claimed, rec)
	}
	return claimed, nil
}

func (a at) Renew(_ context.Context, _ string, first, last int, lease string, d time.Duration) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for row := first; row <= last; row++ {
		if dev := a.devices[row]; dev != nil && dev.lease == lease && dev.released == "" {
			dev.until = time.Now().Add(d)
			n++
		}
	}
	return n, nil
}

func (a at) Yield(_ context.Context, _ string, first, last int, lease string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for row := first; row <= last; row++ {
		if dev := a.devices[row]; dev != nil && dev.lease == lease {
			dev.lease = ""
		}
	}
	return nil
}

func (a at) Loose(_ context.Context, _ string, rows int) ([]ledger.Loose, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []ledger.Loose
	seen := map[ledger.Loose]bool{}
	for row := 2; row < 2+a.lot.Devices; row++ {
		dev := a.devices[row]
		if dev.released != "" || dev.held(time.Now()) {
			continue
		}
		from := 2 + (row-2)/rows*rows
		l := ledger.Loose{First: from, Last: min(from+rows-1, a.lot.Devices+1), Station: dev.station}
		if !seen[l] {
			seen[l] = true
			found = append(found, l)
		}
	}
	return found, nil
}

func (a at) Due(_ context.Context, _, station string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, dev := range a.devices {
		if dev.released == "" && (dev.station == "" || dev.station == station) {
			return true, nil
		}
	}
	return false, nil
}

func (a at) Beat(context.Context) (int, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return 3, a.retired[a.station], nil
}

func (a at) Lots(context.Context) ([]pipeline.Lot, error) { return []pipeline.Lot{a.lot}, nil }

// release is the compare-and-set by which the ledger takes a change.
func (a at) release(row int, lease string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	dev := a.devices[row]
	if dev.lease != lease {
		return pipeline.ErrLost
	}
	if dev.released != "" {
		a.t.Errorf("row %d was released by %s and by %s", row, dev.released, a.station)
	}
	dev.released = a.station
	return nil
}

func (b *books) left() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.devices {
		if d.released == "" {
			n++
		}
	}
	return n
}

// bench carries records at one station.
type bench struct {
	at
	each    func(ctx context.Context, row int) error // before each release
	refuse  string
	settled chan string
}

func (s *bench) Open(context.Context, pipeline.Lot) (Carried, error) {
	if s.refuse != "" {
		return nil, &RefusedError{s.lot.Name, s.refuse}
	}
	return s, nil
}

func (s *bench) Settle(context.Context, pipeline.Lot) error {
	select {
	case s.settled <- s.station:
	default:
	}
	return nil
}

func (s *bench) Share(int) {}

func (s *bench) Close(context.Context) error { return nil }

func (s *bench) CarryHeld(ctx context.Context, records iter.Seq2[*pipeline.Record, error], hold pipeline.Hold) error {
	for rec, err := range records {
		if err != nil {
			return err
		}
		if s.each != nil {
			select {
			case <-hold.Ended():
				return nil
			default:
			}
			if err := s.each(ctx, rec.Row); err != nil {
				return err
			}
		}
		if ctx.Err() != nil || hold.Holds(0) != nil {
			return nil
		}
		if err := s.release(rec.Row, rec.Lease); err != nil && !errors.Is(err, pipeline.ErrLost) {
			return err
		}
	}
	return nil
}

func open(t *testing.T, c *cluster, schema string) *Database {
	t.Helper()
	d, err := Open(t.Context(), c.config(t, schema), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func worker(t *testing.T, c *cluster, schema string, b *bench) *Worker {
	return &Worker{Database: open(t, c, schema), Ledger: b.at, Lots: b, Beat: b.Beat, Station: b.station,
		Process: "boot/" + b.station, Times: quick(), Log: quiet}
}

func submit(t *testing.T, d *Database, b *books) Submitted {
	t.Helper()
	done, err := Submit(t.Context(), d, b.lot.Name, NeedsOf(b.lot), 2, 1+b.lot.Devices)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestQueue(t *testing.T) {
	c := startPostgres(t)
	t.Run("submits once", func(t *testing.T) { testSubmit(t, c) })
	t.Run("three stations", func(t *testing.T) { testThree(t, c) })
	t.Run("dead station", func(t *testing.T) { testDead(t, c) })
	t.Run("retired", func(t *testing.T) { testRetired(t, c) })
	t.Run("refused", func(t *testing.T) { testRefused(t, c) })
	t.Run("outage", func(t *testing.T) { testOutage(t, c) })
	t.Run("own pack", func(t *testing.T) { testOwnPack(t, c) })
	t.Run("database dies", func(t *testing.T) { testDatabaseDies(t, c) })
}

func testSubmit(t *testing.T, c *cluster) {
	b := newBooks(t, "once", 1050)
	d := open(t, c, "once")
	if got := submit(t, d, b); got != (Submitted{Chunks: 11}) {
		t.Errorf("first: %+v", got)
	}
	if got := submit(t, d, b); got != (Submitted{Already: 11}) {
		t.Errorf("second: %+v", got)
	}
}

func testThree(t *testing.T, c *cluster) {
	b := newBooks(t, "three", 2000)
	submit(t, open(t, c, "three"), b)
	var group sync.WaitGroup
	for i := range 3 {
		w := worker(t, c, "three", &bench{at: at{b, fmt.Sprint("line-", i)}})
		group.Go(func() {
			if err := w.Run(t.Context(), true); err != nil {
				t.Errorf("%s: %v", w.Station, err)
			}
		})
	}
	group.Wait()
	if n := b.left(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

// testDead lets one worker hang with its leases, as a stopped process does.
func testDead(t *testing.T, c *cluster) {
	b := newBooks(t, "dead", 600)
	submit(t, open(t, c, "dead"), b)
	hung := make(chan struct{}, 100)
	dead := &bench{at: at{b, "dead"}, each: func(ctx context.Context, _ int) error {
		hung <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	w := worker(t, c, "dead", dead)
	w.Times.Renew = time.Hour // its leases run out
	ctx, kill := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if err := w.Run(ctx, false); err != nil {
			t.Error(err)
		}
	})
	<-hung
	if err := worker(t, c, "dead", &bench{at: at{b, "alive"}}).Run(t.Context(), true); err != nil {
		t.Error(err)
	}
	if n := b.left(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
	kill()
	group.Wait()
}

func testRetired(t *testing.T, c *cluster) {
	b := newBooks(t, "retired", 10)
	b.retired["old"] = "fell from the bench"
	w := worker(t, c, "retired", &bench{at: at{b, "old"}})
	said := ""
	w.Retired = func(_ context.Context, reason string) error { said = reason; return nil }
	if err := w.Run(t.Context(), true); !errors.Is(err, ErrRetired) || said != "fell from the bench" {
		t.Errorf("got %v, told %q", err, said)
	}
}

// testRefused gives a lot to a station that has another golden image, and to
// one that can work.
func testRefused(t *testing.T, c *cluster) {
	b := newBooks(t, "refused", 300)
	submit(t, open(t, c, "refused"), b)
	other := worker(t, c, "refused", &bench{at: at{b, "other"}, refuse: "golden image"})
	if err := other.Run(t.Context(), true); err != nil { // it has nothing to do
		t.Error(err)
	}
	if n := b.left(); n != 300 {
		t.Errorf("%d devices are left", n)
	}
	if err := worker(t, c, "refused", &bench{at: at{b, "right"}}).Run(t.Context(), true); err != nil {
		t.Error(err)
	}
	if n := b.left(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

func testOutage(t *testing.T, c *cluster) {
	b := newBooks(t, "outage", 300)
	submit(t, open(t, c, "outage"), b)
	full := &pipeline.Outage{Part: pipeline.PartStorage, Err: errors.New("disk full")}
	broken := &bench{at: at{b, "broken"}, each: func(context.Context, int) error { return full }}
	var outage *pipeline.Outage
	if err := worker(t, c, "outage", broken).Run(t.Context(), true); !errors.As(err, &outage) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
	if err := worker(t, c, "outage", &bench{at: at{b, "sound"}}).Run(t.Context(), true); err != nil {
		t.Error(err)
	}
	if n := b.left(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

// testOwnPack has devices that one station staged: no other may have them.
func testOwnPack(t *testing.T, c *cluster) {
	b := newBooks(t, "own", 200)
	for row := 50; row < 60; row++ {
		b.devices[row].station = "owner"
	}
	submit(t, open(t, c, "own"), b)
	if err := worker(t, c, "own", &bench{at: at{b, "other"}}).Run(t.Context(), true); err != nil {
		t.Error(err)
	}
	if n := b.left(); n != 10 {
		t.Errorf("%d devices are left, not the 10 of the owner", n)
	}
	if err := worker(t, c, "own", &bench{at: at{b, "owner"}}).Run(t.Context(), true); err != nil {
		t.Error(err)
	}
	if n := b.left(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

func testDatabaseDies(t *testing.T, c *cluster) {
	b := newBooks(t, "dies", 1000)
	submit(t, open(t, c, "dies"), b)
	var once sync.Once
	half := make(chan struct{})
	slow := &bench{at: at{b, "line-1"}, each: func(_ context.Context, row int) error {
		if row > 300 {
			once.Do(func() { close(half) })
		}
		return nil
	}}
	w := worker(t, c, "dies", slow)
	w.Times.Rescue, w.Times.Job = 3*time.Second, 2*time.Second
	w.Times.Renew = 500 * time.Millisecond
	var group sync.WaitGroup
	group.Go(func() {
		if err := w.Run(t.Context(), true); err != nil {
			t.Error(err)
		}
	})
	<-half
	c.crash(t)
	group.Wait()
	if n := b.left(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}
