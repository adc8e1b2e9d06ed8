package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// Drain is how long devices that are under way may take to end their current
// step after the run was told to stop. Every step can be repeated, so what
// takes longer is cut off.
const Drain = 5 * time.Second

// Limits bounds the scarce things. Zero values take the defaults.
type Limits struct {
	// Devices is how many devices are under way at once, default 256. They
	// share durable commits, so more of them means fewer syncs a device.
	Devices int
	// CPU is how many goroutines check keys at once, default one a core. Keys
	// that this machine makes itself count, too; those that a device makes don't
	// (Keys.AtOnce).
	CPU int
	// Images is how many images are written at once, default twice the cores.
	Images int
	// Step is how long a step outside the ledger may take, a request's own time
	// limit: a lease that ends earlier is not worth beginning one. Default 30 s.
	Step time.Duration
}

func (l Limits) withDefaults() Limits {
	cores := runtime.GOMAXPROCS(0)
	if l.Devices <= 0 {
		l.Devices = 256
	}
	if l.CPU <= 0 {
		l.CPU = cores
	}
	if l.Images <= 0 {
		l.Images = 2 * cores
	}
	if l.Step <= 0 {
		l.Step = 30 * time.Second
	}
	return l
}

// LineConfig is what a line is made of. All fields but the hooks must be set;
// Keys may be nil for a line that carries nothing.
type LineConfig struct {
	Lot     Lot
	Station string
	Run     int64 // Seq of the run-started event, repeated in each device's events

	Ledger Ledger
	Keys   Keys
	Images Images
	Server Server
	Policy OnConflict
	Limits Limits
	Log    *slog.Logger
	// Reached is told each state change after it is durable. It is called by
	// many goroutines at once; nil is allowed.
	Reached func(from, to State)
	// Took is told how long each step that a device passed took, by the state
	// that it led to; what failed is not told. As Reached otherwise.
	Took func(to State, d time.Duration)
	// Follow is told what begins and ends, for traces; nil is allowed.
	Follow Follower
}

// Line is the production line of one lot at one station. Its methods may be
// called by many goroutines at once; they share its limits. The fields of its
// LineConfig are not changed once one of them was called.
type Line struct {
	LineConfig

	cpu, images *semaphore.Weighted
	making      *semaphore.Weighted // of keys; cpu itself where they are made here
	made        madeKeys
}

// NewLine returns a line with limits of its own.
func NewLine(config LineConfig) *Line {
	config.Limits = config.Limits.withDefaults()
	l := &Line{
		LineConfig: config,
		cpu:        semaphore.NewWeighted(int64(config.Limits.CPU)),
		images:     semaphore.NewWeighted(int64(config.Limits.Images)),
	}
	l.making = l.cpu
	if config.Keys == nil { // it only compares
		return l
	}
	if n := config.Keys.AtOnce(); n > 0 {
		l.making = semaphore.NewWeighted(int64(n))
	}
	return l
}

// transitions returns what makes the line's state changes.
func (l *Line) transitions() *Transitions {
	return &Transitions{Ledger: l.Ledger, Station: l.Station, Run: l.Run, Reached: l.Reached}
}

// Resumable lists the states that a run takes up.
var Resumable = []State{Planned, Staged, Preauthorized, Failed}

// reins are the two grades of stopping. When soft ends no device begins a new
// step or waits for one; when hard ends the steps under way are cut off.
type reins struct {
	soft, hard context.Context
	stop       context.CancelCauseFunc // ends soft
	hold       Hold                    // nil where nobody else may have the devices
}

// Hold is a station's right to work on devices that others could have, for a
// while that is extended as long as the work goes on: a lease.
type Hold interface {
	// Holds returns nil if the right outlasts a step that takes at most d.
	Holds(d time.Duration) error
	// Ended is closed when the right has ended: steps under way are cut off.
	Ended() <-chan struct{}
}

// holds stops the carrying where the right to it doesn't outlast the next step.
func (r *reins) holds(step time.Duration) bool {
	if r.hold == nil {
		return true
	}
	err := r.hold.Holds(step)
	if err != nil {
		r.stop(err)
	}
	return err == nil
}

// stopping reports whether no step may begin any more.
func (r *reins) stopping() bool { return r.soft.Err() != nil }

// cutOff reports whether a step's error comes from the run being stopped.
func (r *reins) cutOff(err error) bool {
	return r.stopping() && (r.hard.Err() != nil || errors.Is(err, context.Canceled))
}

// Carry takes the records that are handed in, superseded ones aside, to their
// release. One device's failure is recorded and the run goes on. An *Outage
// stops it and is returned, and so does an error among the records. When drain
// is closed no device begins a new step, and Carry returns nil within Drain;
// cancelling ctx stops at once with its error.
func (l *Line) Carry(ctx context.Context, drain <-chan struct{}, records iter.Seq2[*Record, error]) error {
	return l.CarryHeld(ctx, drain, records, nil)
}

// CarryHeld is Carry for devices that the station has a lease on: each step
// begins only if the lease outlasts it, and when the lease ends the steps under
// way are cut off. Devices that are left when the lease ends stay where they
// stand, and CarryHeld returns nil. No check is a fence: what a stopped station
// does too late is refused by the ledger's compare-and-set.
func (l *Line) CarryHeld(ctx context.Context, drain <-chan struct{}, records iter.Seq2[*Record, error], hold Hold) error {
	soft, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hard, kill := context.WithCancel(ctx)
	defer kill()
	r := &reins{soft: soft, hard: hard, stop: stop, hold: hold}
	done := make(chan struct{})
	var watch sync.WaitGroup
	if hold != nil {
		watch.Go(func() { watchHold(hold.Ended(), done, stop, kill) })
	}
	watch.Go(func() { watchDrain(drain, done, stop) })
	watch.Go(func() { watchSoft(soft, done, kill) })
	defer watch.Wait()
	defer close(done)

	feed := make(chan *Record)
	var group errgroup.Group
	group.Go(func() error {
		defer close(feed)
		return l.feed(r, feed, records)
	})
	for range l.Limits.Devices {
		group.Go(func() error { return l.work(r, feed) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// One takes one device to its release, or to where its own failure stops it:
// then the record says so, and One returns nil. It returns an *Outage, or ctx's
// error when ctx ended first.
func (l *Line) One(ctx context.Context, rec *Record) error {
	soft, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := l.carry(&reins{soft: soft, hard: ctx, stop: stop}, rec); err != nil {
		return err
	}
	return ctx.Err()
}

// errDrain is the cause of a soft stop that was asked for.
var errDrain = errors.New("asked to stop")

// errHoldEnded is the cause of a stop because the right to the devices ended.
var errHoldEnded = errors.New("the lease on the devices ended")

func watchDrain(drain, done <-chan struct{}, stop context.CancelCauseFunc) {
	select {
	case <-drain:
		stop(errDrain)
	case <-done:
	}
}

// watchHold cuts off what is under way when the right to it ends.
func watchHold(ended, done <-chan struct{}, stop context.CancelCauseFunc, kill context.CancelFunc) {
	select {
	case <-ended:
		stop(errHoldEnded)
		kill()
	case <-done:
	}
}

// watchSoft kills the steps that outlast a soft stop by Drain.
func watchSoft(soft context.Context, done <-chan struct{}, kill context.CancelFunc) {
	select {
	case <-soft.Done():
	case <-done:
		return
	}
	timer := time.NewTimer(Drain)
	defer timer.Stop()
	select {
	case <-timer.C:
		kill()
	case <-done:
	}
}

// feed hands out records until there are no more or the run stops.
func (l *Line) feed(r *reins, feed chan<- *Record, records iter.Seq2[*Record, error]) error {
	for rec, err := range records {
		if r.stopping() {
			return nil
		}
		if err != nil {
			r.stop(err)
			return storageOutage("ledger", err)
		}
		if rec.Superseded != "" {
			continue
		}
		select {
		case feed <- rec:
		case <-r.soft.Done():
			return nil
		}
	}
	return nil
}

// storageOutage makes err an *Outage of the storage unless it is one already.
func storageOutage(what string, err error) error {
	if _, ok := errors.AsType[*Outage](err); ok {
		return err
	}
	return &Outage{Part: PartStorage, Err: fmt.Errorf("%s: %w", what, err),
		Hint: "Check the disk, then run the same command again: it goes on from here."}
}

// work carries records until the feed ends. It returns an error only for what
// stops the whole run, and stops it.
func (l *Line) work(r *reins, feed <-chan *Record) error {
	for rec := range feed {
		if err := l.carry(r, rec); err != nil {
			r.stop(err)
			return err
		}
	}
	return nil
}

// carry takes one device from its recorded state to its release. It returns
// nil also when the device failed, or when the run stopped between two steps.
func (l *Line) carry(r *reins, rec *Record) (err error) {
	rec.Attempts++
	r, ended := l.follow(r, rec, "")
	defer func() { ended(err) }()
	var own ownKey
	for _, step := range []struct {
		from State
		do   func(*reins, *Record) error
	}{
		{Planned, func(r *reins, rec *Record) error { return l.stage(r, rec, &own) }},
		{Staged, l.preauthorize},
		{Preauthorized, func(r *reins, rec *Record) error { return l.release(r, rec, &own) }},
	} {
		if rec.Progress() != step.from {
			continue
		}
		if r.stopping() || !r.holds(l.Limits.Step) {
			return nil
		}
		began := time.Now()
		at, stepped := l.follow(r, rec, step.from)
		err := step.do(at, rec)
		stepped(err)
		if err != nil {
			return l.judge(r, rec, err)
		}
		if l.Took != nil {
			l.Took(rec.State, time.Since(began))
		}
	}
	return nil
}

// judge decides what a step's error means: stop the run, or record the
// device's own failure and go on.
func (l *Line) judge(r *reins, rec *Record, err error) error {
	if _, ok := errors.AsType[*Outage](err); ok {
		return err
	}
	if r.cutOff(err) { // not failed: the record stands where it stood
		return nil
	}
	if errors.Is(err, ErrLost) {
		l.Log.Warn("another worker has this device", "device", rec.Identity.Name(), "row", rec.Row)
		return nil
	}
	what := ActionFail
	if _, ok := errors.AsType[*ConflictError](err); ok {
		what = ActionConflict
	}
	l.Log.Warn("device "+what, "device", rec.Identity.Name(), "row", rec.Row, "reason", err)
	return l.transitions().failed(r.hard, rec, err)
}
