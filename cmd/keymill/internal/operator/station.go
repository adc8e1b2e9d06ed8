package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a station works. Lot, Press and Log are always set.
type Options struct {
	Station  string // its name
	Lot      Lot
	Press    Press
	Maker    Maker    // nil: dispense released devices only
	Labeller Labeller // nil: no labels
	Printer  Printer  // nil: no labels
	Badges   *Badges  // nil: nobody is asked for a badge
	Slots    []SlotOptions
	// ByNext says that units have no code of their own: NEXT takes the lot's next
	// device.
	ByNext bool
	// ByOperator says that the operator confirms a unit by DONE instead of by
	// scanning its label.
	ByOperator    bool
	Before, After *Hook
	// Silence is how long a scanner that sends neither Enter nor Tab is silent after
	// a scan; 0: 80 ms.
	Silence time.Duration
	Largest int64 // bytes of the largest medium that is taken; 0: any
	Places  Places
	Learnt  string            // file that keeps which port is which slot's
	Work    string            // private folder for images that programs write
	Call    map[string]string // whom to call, by part: server, hsm, disk, printer
	// Watch calls changed when a block device came or went; WatchBlock does. Slots
	// are looked at every second anyway.
	Watch func(ctx context.Context, changed func()) error
	Log   *slog.Logger
}

// SlotOptions is one slot.
type SlotOptions struct {
	Name    string
	Place   Place    // nil: learnt, or a program's
	Program *Program // writes instead of the station
}

// Station is the bench. Its methods may be called by several goroutines.
type Station struct {
	opt   Options
	spawn func(func(context.Context)) // starts work that ends with the station
	wait  func()

	view    atomic.Pointer[View]
	latency latencies

	mu       sync.Mutex // guards all below; held while the ledger is asked, never while a medium is written
	slots    []*slot
	counts   Counts
	shift    *shift
	person   *Person
	ended    bool             // the shift's end is on the screen
	notice   *notice          // what became of the last scan; stands until the next one
	stopped  map[string]*stop // by part
	dialog   *dialog          // nil unless a person is being asked something
	lay      *layout
	focus    *slot
	learning string // slot that the next plugged medium shows
	ports    map[string]string
	last     struct {
		text   string
		screen int
	}
	ids      recent
	screen   int    // counts what the operator was shown
	shown    string // what it was, for telling whether it changed
	revision int
	tone     tone
	changed  chan struct{} // closed at each new view
	printing chan struct{} // wakes the printer
	lastDone *slotMemory   // the unit that was confirmed last, for a reprint
}

// slotMemory remembers a confirmed unit.
type slotMemory struct {
	unit *Unit
	data []byte
}

// tone is what the page plays: seq counts them.
type tone struct {
	Kind string // good, bad or empty
	Seq  int
}

// notice is the result of a scan, or a unit's failure.
type notice struct {
	grade  string // ok, info, warn, fail
	code   string
	text   string // one sentence
	action string // one action
	sticky bool   // wants ACK: it came by itself, while the operator may have looked elsewhere
	taken  *Unit  // the live unit that was in the way; a supervisor may scrap it
}

// stop is why the line doesn't run.
type stop struct {
	part, text string
	since      time.Time
	retry      bool // ACK tries again
}

// New prepares a station, and takes up the units that an earlier process left.
func New(ctx context.Context, opt Options) (*Station, error) {
	st := &Station{opt: opt, stopped: map[string]*stop{}, changed: make(chan struct{}), printing: make(chan struct{}, 1),
		shift: newShift(time.Now())}
	var group sync.WaitGroup
	st.spawn = func(f func(context.Context)) { group.Go(func() { f(ctx) }) }
	st.wait = group.Wait
	learnt, err := readLearnt(opt.Learnt)
	if err != nil {
		return nil, err
	}
	for _, o := range opt.Slots {
		s, err := newSlot(o, opt.Places, learnt)
		if err != nil {
			return nil, err
		}
		st.slots = append(st.slots, s)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.counts, err = opt.Lot.Counts(ctx); err != nil {
		return nil, err
	}
	if err := st.takeUp(ctx); err != nil {
		return nil, err
	}
	st.publish()
	return st, nil
}

// Run looks after slots and printer until ctx, the one of New, ends. It returns
// when all that was being written has come to an end.
func (st *Station) Run(ctx context.Context) error {
	look := make(chan struct{}, 1)
	poke := func() {
		select {
		case look <- struct{}{}:
		default:
		}
	}
	if st.opt.Watch != nil {
		st.spawn(func(ctx context.Context) {
			if err := st.opt.Watch(ctx, poke); err != nil {
				st.opt.Log.Warn("no hot-plug events; slots are looked at every second", "error", err)
			}
		})
	}
	st.spawn(st.printLoop)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for round := 0; ; round++ {
		st.mu.Lock()
		st.lookAtSlots()
		if round%5 == 4 {
			st.recount(ctx)
		}
		st.publish()
		st.mu.Unlock()
		select {
		case <-ctx.Done():
			st.wait()
			return nil
		case <-tick.C:
		case <-look:
		}
	}
}

// takeUp puts units of an earlier process into their slots: nothing is written
// again, or labelled, unless it is the same medium.
func (st *Station) takeUp(ctx context.Context) error {
	left, err := st.opt.Lot.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, u := range left {
		if u.State == Reserved {
			u.Reason = "abandoned"
			if err := st.opt.Lot.Move(ctx, u, Failed); err != nil {
				return err
			}
			continue
		}
		s := st.slotNamed(u.Slot)
		if s == nil || s.unit != nil {
			s = &slot{name: u.Slot, place: learnable{}, extra: true}
			if s.name == "" {
				s.name = fmt.Sprintf("unit %d", u.Number)
			}
			st.slots = append(st.slots, s)
		}
		s.unit, s.scanned = u, time.Now()
		switch u.State {
		case Writing:
			s.phase = phaseInterrupted
		case Verified:
			s.phase = phaseVerified
			if st.opt.Maker != nil {
				s.phase = phaseHold
				st.spawn(func(ctx context.Context) { st.release(ctx, s, u) })
			}
		case Labelled:
			s.phase = phaseLabelled
		}
	}
	return nil
}

func (st *Station) slotNamed(name string) *slot {
	for _, s := range st.slots {
		if s.name == name && name != "" {
			return s
		}
	}
	return nil
}

// recount asks the ledger for the lot's numbers, as others work on the lot, too.
func (st *Station) recount(ctx context.Context) {
	counts, err := st.opt.Lot.Counts(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		st.ledgerFault(err)
	default:
		st.counts = counts
		st.resume("ledger")
	}
}

// stop stops the line.
func (st *Station) stop(part, text string, retry bool) {
	if was := st.stopped[part]; was != nil && was.text == text {
		return
	}
	st.opt.Log.Error("the line is stopped", "part", part, "reason", text)
	st.stopped[part] = &stop{part: part, text: text, since: time.Now(), retry: retry}
	st.play("bad")
}

// resume lets the line run again.
func (st *Station) resume(part string) {
	if st.stopped[part] != nil {
		st.opt.Log.Info("the line goes on", "part", part)
		delete(st.stopped, part)
		st.play("good")
	}
}

func (st *Station) play(kind string) { st.tone = tone{kind, st.tone.Seq + 1} }

// say shows the result of a scan.
func (st *Station) say(grade, code, text, action string) {
	st.notice = &notice{grade: grade, code: code, text: text, action: action}
	if grade == "fail" || grade == "warn" {
		st.play("bad")
	}
}

// ledgerFault stops the line where an error is the ledger's.
func (st *Station) ledgerFault(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	st.stop("ledger", err.Error(), true)
}

func (st *Station) operatorName() string {
	if st.person == nil {
		return ""
	}
	return st.person.Name
}

// View returns what the page shows now, and a channel that closes when that
// changes.
func (st *Station) View() (*View, <-chan struct{}) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.view.Load(), st.changed
}

// publish makes the present state the one that everybody sees.
func (st *Station) publish() {
	v := st.look()
	if v.shown() != st.shown {
		st.shown = v.shown()
		st.screen++
	}
	v.ScreenNumber = st.screen
	if old := st.view.Load(); old != nil && old.equal(v) {
		return
	}
	st.revision++
	v.Revision = st.revision
	st.view.Store(v)
	close(st.changed)
	st.changed = make(chan struct{})
}

// recent remembers the ids of the latest scans.
type recent struct {
	ring [1024]string
	at   int
	set  map[string]bool
}

// add reports whether an id is new, and remembers it.
func (r *recent) add(id string) bool {
	if id == "" {
		return true
	}
	if r.set == nil {
		r.set = map[string]bool{}
	}
	if r.set[id] {
		return false
	}
	delete(r.set, r.ring[r.at])
	r.ring[r.at] = id
	r.set[id] = true
	r.at = (r.at + 1) % len(r.ring)
	return true
}

// latencies keeps how long it took from scans to first bytes.
type latencies struct {
	mu sync.Mutex
	c  cycles
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c.add(d)
}

func (l *latencies) quantile(p float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.c.quantile(p)
}
