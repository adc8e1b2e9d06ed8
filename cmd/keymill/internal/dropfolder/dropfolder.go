// Package dropfolder works on a drop folder: it runs the manifests that it
// finds, one lot after the other, and puts them where they belong.
package dropfolder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/metrics"
	"keymill/cmd/keymill/internal/notify"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/telemetry"
	"keymill/pipeline"
)

// Options say which drop folder is worked on, and how.
type Options struct {
	Dir     string
	Watch   bool // go on waiting for manifests
	Config  *config.Config
	Station station.Options // how its lots are worked on
	Log     *slog.Logger
	HookOut io.Writer // what notify.command says
	Verb    string    // as traces name it

	// Begins is told of each lot that is taken up; Settled what it came to, and
	// returns its error; Fault what ended a lot; Ended where it was put.
	Begins  func(manifest string)
	Settled func(station.Outcome, error) error
	Fault   func(error)
	Ended   func(Result) error
}

// batch is one run over a drop folder.
type batch struct {
	Options
	folder    *dropFolder
	meter     *metrics.Meter
	outbox    *notify.Outbox
	systemd   *systemd
	telemetry *telemetry.Telemetry
	drain     <-chan struct{}

	worst   fault.Kind
	retryAt map[string]time.Time // by lot; when watch takes it up again
	failed  map[string]string    // by lot; the failure that was told last
	rest    time.Time            // until when watch leaves everything alone, after an outage
}

// stopLimit is the longest that a batch goes on after it was told to stop.
const stopLimit = pipeline.Drain + 3*time.Second

// Run works on a drop folder, and returns the worst that any lot had. An error
// is of the folder itself.
func Run(ctx context.Context, o Options) (fault.Kind, error) {
	b, held, err := openBatch(ctx, o)
	if err != nil {
		return fault.KindOf(err), err
	}
	defer held.Close()
	outer := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	beat := make(chan struct{})
	go func() { defer close(beat); b.beat(ctx) }()
	go b.mindDrain(ctx, stop)
	b.tell("READY=1", statusLine("waiting for manifests"))
	b.flush(ctx)
	err = b.loop(ctx)
	b.outbox.Rest(time.Time{}) // nobody tries again before the next batch
	b.flush(ctx)
	b.tell("STOPPING=1")
	stop()
	<-beat
	kind, err := b.end(outer, err)
	b.telemetry.Close(outer)
	return kind, err
}

// openBatch takes the folder's lock and opens what a batch needs. held gives
// everything up.
func openBatch(ctx context.Context, o Options) (b *batch, held io.Closer, err error) {
	cfg := o.Config
	if cfg.Out != "" {
		return nil, nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("out is set, but a batch has many lots"),
			"Leave it out: the products of each lot go to out/LOT, below the folder that keymill runs in."))
	}
	if info, err := os.Stat(o.Dir); err != nil || !info.IsDir() {
		return nil, nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("there is no folder %s", o.Dir),
			"Make it; batch makes the folders in it: in, work, done, refused."))
	}
	b = &batch{Options: o, retryAt: map[string]time.Time{}, failed: map[string]string{}}
	if b.folder, err = openDropFolder(o.Dir); err != nil {
		return nil, nil, err
	}
	env := o.Station.Settings.Env
	if b.outbox, err = notify.Open(cfg.Notify, notify.Place{
		Dir: b.folder.state("outbox"), HookDir: b.folder.root, Env: env, HookOut: o.HookOut, Log: b.Log,
	}); err != nil {
		return nil, nil, err
	}
	lock, err := files.Lock(b.folder.state("lock"), b.folder.root)
	if err != nil {
		return nil, nil, err
	}
	if b.systemd, err = openSystemd(ctx, env); err != nil {
		b.Log.Warn("systemd does not listen", "error", err)
	}
	b.meter = metrics.New(cfg.Metrics, cfg.Audit.Station, time.Now())
	b.meter.Running.Set(1)
	b.meter.Success.Set(metrics.Seconds(b.folder.lastSuccess()))
	if b.telemetry, err = telemetry.Open(ctx, cfg, env, b.Log, b.meter); err != nil {
		return nil, nil, errors.Join(err, closers{b.meter, b.systemd, lock}.Close())
	}
	b.Station.Hooks.Begun = b.meter.Begun
	b.Station.Hooks.Follow, b.Station.Hooks.FollowRequest = b.telemetry.Follower(), b.telemetry.RequestFollower()
	b.drain = o.Station.Drain()
	return b, closers{b.meter, b.systemd, lock}, nil
}

// closers are closed in order.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, closer := range c {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}

// loop works through the folder once, or until it is told to stop. An error is
// of the folder itself; those of lots are in b.worst.
func (b *batch) loop(ctx context.Context) error {
	for {
		outage, err := b.round(ctx)
		b.show(ctx, !b.Watch)
		if err != nil {
			return err
		}
		if outage {
			b.rest = time.Now().Add(b.Config.Batch.Retry)
		}
		switch {
		case b.stopped(ctx):
			b.worst = b.stoppedKind()
			return nil
		case !b.Watch:
			return nil
		}
		b.flush(ctx)
		b.wait(ctx, b.Config.Batch.Poll)
	}
}

// stoppedKind is how a batch ends that was told to stop. To be stopped
// between two lots is the usual end of one that watches.
func (b *batch) stoppedKind() fault.Kind {
	switch {
	case b.worst == fault.Interrupted:
		return fault.Interrupted
	case b.Watch:
		return fault.None
	}
	unfinished, err := b.folder.unfinished()
	if err != nil || len(unfinished)+countManifests(b.folder.in()) > 0 {
		return fault.Interrupted
	}
	return b.worst
}

// round carries what is unfinished, and then what was dropped. outage says that
// a lot met one, which ended the round.
func (b *batch) round(ctx context.Context) (outage bool, err error) {
	now := time.Now()
	if now.Before(b.rest) || b.stopped(ctx) {
		return false, nil
	}
	unfinished, err := b.folder.unfinished()
	if err != nil {
		return false, err
	}
	for _, d := range unfinished {
		if now.Before(b.retryAt[d.lot]) {
			continue
		}
		if outage, err = b.work(ctx, d); outage || err != nil || b.stopped(ctx) {
			return outage, err
		}
	}
	ready, err := b.dropped(ctx)
	if err != nil {
		return false, err
	}
	for _, d := range ready {
		if b.stopped(ctx) {
			return false, nil
		}
		if now.Before(b.retryAt[d.lot]) {
			continue
		}
		taken, ok, err := b.folder.take(d)
		if err != nil {
			// One that cannot be moved must not keep the others back.
			if err := b.conclude(ctx, d, err); err != nil {
				return false, err
			}
			continue
		}
		if !ok {
			b.Log.Warn("a lot of this name is unfinished; the manifest waits", "manifest", d.name(), "lot", d.lot)
			continue
		}
		if outage, err = b.work(ctx, taken); outage || err != nil {
			return outage, err
		}
	}
	return false, nil
}

// dropped returns the manifests in in/ that are not being written any more. A
// batch that does not watch looks twice.
func (b *batch) dropped(ctx context.Context) ([]dropped, error) {
	settle := b.Config.Batch.Settle
	known := b.folder.odd
	ready, unsettled, err := b.folder.look(time.Now(), settle)
	for name := range b.folder.odd {
		if !known[name] {
			b.Log.Warn("ignored: not a regular file; drop the manifest itself", "name", name, "folder", b.folder.in())
		}
	}
	if err == nil && unsettled > 0 && !b.Watch && b.wait(ctx, settle) {
		ready, unsettled, err = b.folder.look(time.Now(), settle)
	}
	if unsettled > 0 && !b.Watch {
		b.Log.Warn("manifests are still being written; the next batch takes them", "count", unsettled)
	}
	return ready, err
}

// wait waits, and reports whether it did to the end.
func (b *batch) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.drain:
	case <-ctx.Done():
	}
	return false
}

// stopped reports whether nothing new may begin.
func (b *batch) stopped(ctx context.Context) bool {
	return ctx.Err() != nil || b.draining()
}

// draining reports whether the batch was told to end the steps under way.
func (b *batch) draining() bool {
	select {
	case <-b.drain:
		return true
	default:
		return false
	}
}

// mindDrain cuts off what outlasts being told to stop: a drain bounds itself,
// but a manifest that is being planned, or a server that is asked, does not.
func (b *batch) mindDrain(ctx context.Context, stop context.CancelFunc) {
	select {
	case <-ctx.Done():
		return
	case <-b.drain:
	}
	b.tell("STOPPING=1", statusLine("ending the steps under way"))
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		stop()
	}
}

// end writes the last metrics and returns how the batch ended.
func (b *batch) end(ctx context.Context, err error) (fault.Kind, error) {
	ctx = context.WithoutCancel(ctx)
	kind := b.worst
	if err != nil {
		kind = fault.KindOf(err)
	}
	if kind == fault.None {
		if err := b.folder.succeeded(); err != nil {
			b.Log.Warn("the time of this success is not noted", "error", err)
		}
		b.meter.Success.Set(metrics.Seconds(b.folder.lastSuccess()))
	}
	b.meter.Running.Set(0)
	b.meter.ExitCode.Set(float64(kind.ExitCode()))
	b.show(ctx, true)
	if err := b.meter.Push(ctx, time.Now(), true); err != nil {
		b.Log.Warn("metrics", "error", err)
	}
	return kind, err
}

// beatEvery is how often metrics are written while a lot is under way.
const beatEvery = 10 * time.Second

// beat shows that the batch is alive. Each beat reads the ledger and writes the
// metrics, so that a disk that hangs is a batch that hangs.
func (b *batch) beat(ctx context.Context) {
	every := beatEvery
	if b.systemd != nil && b.systemd.watchdog > 0 {
		every = min(every, b.systemd.watchdog/3)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.show(ctx, false)
		}
	}
}

// show brings metrics and status up to date. all looks at every lot again.
func (b *batch) show(ctx context.Context, all bool) {
	b.meter.Pending.Set(float64(b.outbox.Count()))
	if list, err := b.folder.unfinished(); err == nil {
		b.meter.Queue.WithLabelValues("unfinished").Set(float64(len(list)))
	}
	b.meter.Queue.WithLabelValues("waiting").Set(float64(countManifests(b.folder.in())))
	b.meter.Queue.WithLabelValues("refused").Set(float64(countManifests(b.folder.path("refused"))))
	err := b.meter.Refresh(ctx, b.Config.Ledger, all, time.Now())
	if err = errors.Join(err, b.meter.Write()); err != nil && ctx.Err() == nil {
		b.Log.Warn("metrics are not up to date", "error", err)
	}
	b.tell(statusLine(b.meter.Progress()), "WATCHDOG=1")
}

// tell tells systemd.
func (b *batch) tell(lines ...string) {
	if err := b.systemd.tell(lines...); err != nil {
		b.Log.Warn("systemd was not told", "what", strings.Join(lines, " "), "error", err)
	}
}

// flush delivers pending notifications, unless the batch is to stop: they wait.
func (b *batch) flush(ctx context.Context) {
	if !b.stopped(ctx) {
		b.outbox.Flush(ctx, time.Now())
	}
}
