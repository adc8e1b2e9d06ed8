package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
)

func (a *app) batchCmd() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "batch DIR",
		Short: "Run the manifests of a drop folder, one lot after the other",
		Long: `Batch takes manifests (*.csv, *.xlsx) from DIR/in, in the order of their names, and
runs each as the lot of its name. What is unfinished in DIR/work goes first. Closed
lots go to DIR/done/LOT with their report, refused manifests to DIR/refused with
NAME.problems.txt and NAME.problems.json beside them. Lots with failed devices stay
in DIR/work, and the next batch tries those again; products lie in out/LOT, as with
"keymill run".

A manifest is taken when it has not changed for batch.settle (2s) and no process on
this machine writes to it. Names that begin with a dot or end otherwise than in .csv
or .xlsx are left alone: write NAME.csv.part and rename it. One that is found to have
grown after it was taken goes to DIR/refused, as not all of it was made.

One batch at a time works on a folder. SIGTERM ends the steps under way and stops.
The exit code is the worst that any lot had, in the order 0, 3, 4, 2, 5, 6, 7, 1, or
130 when it was stopped. When server or HSM are out of order (5, 6) the batch ends,
as the next lot would meet that, too. With --watch, batch goes on waiting for
manifests, and ends with 0 when it is stopped while idle.

` + exitCodesHelp,
		Example: "  keymill batch /var/lib/keymill\n  keymill batch /var/lib/keymill --watch",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.batch(cmd, args[0], watch)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on waiting for manifests")
	cmd.Flags().StringVar(&a.verifyHow, "verify", station.VerifySample, "compare with the server at each lot's end: all, sample or none")
	names := slices.DeleteFunc(slices.Clone(lineSettings), func(name string) bool { return name == "out" })
	addSettings(cmd, append([]string{"expect", "sheet"}, names...)...)
	cmd.Flags().BoolVar(&a.json, "json", false, "print each lot's outcome as JSON when it ends")
	return cmd
}

// batch is one run over a drop folder.
type batch struct {
	app     *app
	cmd     *cobra.Command
	cfg     *config.Config
	log     *slog.Logger
	folder  *dropFolder
	meter   *meter
	outbox  *outbox
	systemd *systemd
	drain   <-chan struct{}

	worst   fault.Kind
	retryAt map[string]time.Time // by lot; when watch takes it up again
	failed  map[string]string    // by lot; the failure that was told last
	rest    time.Time            // until when watch leaves everything alone, after an outage
}

// stopLimit is the longest that a batch goes on after it was told to stop.
const stopLimit = pipeline.Drain + 3*time.Second

// batch works on a drop folder.
func (a *app) batch(cmd *cobra.Command, dir string, watch bool) error {
	b, held, err := a.openBatch(cmd, dir)
	if err != nil {
		return err
	}
	defer held.Close()
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	cmd.SetContext(ctx)
	beat := make(chan struct{})
	go func() { defer close(beat); b.beat(ctx) }()
	go b.mindDrain(ctx, stop)
	b.tell("READY=1", statusLine("waiting for manifests"))
	b.flush(ctx)
	err = b.loop(ctx, watch)
	b.outbox.restUntil = time.Time{} // nobody tries again before the next batch
	b.flush(ctx)
	b.tell("STOPPING=1")
	stop()
	<-beat
	err = b.end(cmd.Context(), err)
	a.telemetry.close(cmd.Context())
	return err
}

// openBatch takes the folder's lock and opens what a batch needs. held gives
// everything up.
func (a *app) openBatch(cmd *cobra.Command, dir string) (b *batch, held io.Closer, err error) {
	if err := a.checkVerifyHow(); err != nil {
		return nil, nil, err
	}
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Out != "" {
		return nil, nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("out is set, but a batch has many lots"),
			"Leave it out: the products of each lot go to out/LOT, below the folder that keymill runs in."))
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("there is no folder %s", dir),
			"Make it; batch makes the folders in it: in, work, done, refused."))
	}
	b = &batch{app: a, cmd: cmd, cfg: cfg, log: logs.New(cfg.Log, a.err), retryAt: map[string]time.Time{}, failed: map[string]string{}}
	if b.folder, err = openDropFolder(dir); err != nil {
		return nil, nil, err
	}
	if b.outbox, err = a.openOutbox(cfg.Notify, b.folder, b.log); err != nil {
		return nil, nil, err
	}
	lock, err := files.Lock(b.folder.state("lock"), b.folder.root)
	if err != nil {
		return nil, nil, err
	}
	if b.systemd, err = a.systemd(cmd.Context()); err != nil {
		b.log.Warn("systemd does not listen", "error", err)
	}
	b.meter = newMeter(cfg.Metrics, cfg.Audit.Station, time.Now())
	b.meter.running.Set(1)
	b.meter.success.Set(seconds(b.folder.lastSuccess()))
	if a.telemetry, err = a.openTelemetry(cmd.Context(), cfg, b.meter); err != nil {
		return nil, nil, errors.Join(err, closers{b.meter, b.systemd, lock}.Close())
	}
	b.drain = a.brake.drainable()
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
func (b *batch) loop(ctx context.Context, watch bool) error {
	for {
		outage, err := b.round(ctx, watch)
		b.show(ctx, !watch)
		if err != nil {
			return err
		}
		if outage {
			b.rest = time.Now().Add(b.cfg.Batch.Retry)
		}
		switch {
		case b.stopped(ctx):
			b.worst = b.stoppedKind(watch)
			return nil
		case !watch:
			return nil
		}
		b.flush(ctx)
		b.wait(ctx, b.cfg.Batch.Poll)
	}
}

// stoppedKind is how a batch ends that was told to stop. To be stopped
// between two lots is the usual end of one that watches.
func (b *batch) stoppedKind(watch bool) fault.Kind {
	switch {
	case b.worst == fault.Interrupted:
		return fault.Interrupted
	case watch:
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
func (b *batch) round(ctx context.Context, watch bool) (outage bool, err error) {
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
	ready, err := b.dropped(ctx, watch)
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
			b.log.Warn("a lot of this name is unfinished; the manifest waits", "manifest", d.name(), "lot", d.lot)
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
func (b *batch) dropped(ctx context.Context, watch bool) ([]dropped, error) {
	settle := b.cfg.Batch.Settle
	known := b.folder.odd
	ready, unsettled, err := b.folder.look(time.Now(), settle)
	for name := range b.folder.odd {
		if !known[name] {
			b.log.Warn("what is no plain file is left alone; drop the manifest itself", "name", name, "folder", b.folder.in())
		}
	}
	if err == nil && unsettled > 0 && !watch && b.wait(ctx, settle) {
		ready, unsettled, err = b.folder.look(time.Now(), settle)
	}
	if unsettled > 0 && !watch {
		b.log.Warn("manifests that are still being written are left for the next batch", "count", unsettled)
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
	return ctx.Err() != nil || b.app.brake.draining()
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

// end writes the last metrics and returns the error for the exit code.
func (b *batch) end(ctx context.Context, err error) error {
	ctx = context.WithoutCancel(ctx)
	kind := b.worst
	if err != nil {
		kind = fault.KindOf(err)
	}
	if kind == fault.None {
		if err := b.folder.succeeded(); err != nil {
			b.log.Warn("the time of this success is not noted", "error", err)
		}
		b.meter.success.Set(seconds(b.folder.lastSuccess()))
	}
	b.meter.running.Set(0)
	b.meter.exitCode.Set(float64(kind.ExitCode()))
	b.show(ctx, true)
	if err := b.meter.push(ctx, time.Now(), true); err != nil {
		b.log.Warn("metrics", "error", err)
	}
	switch {
	case err != nil || kind == fault.None:
		return err
	case kind == fault.Interrupted:
		return fault.As(fault.Interrupted, context.Canceled)
	}
	return fault.Told(kind, "the worst of the batch's lots ended with %d", kind.ExitCode())
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
	b.meter.pending.Set(float64(b.outbox.count()))
	if list, err := b.folder.unfinished(); err == nil {
		b.meter.queue.WithLabelValues("unfinished").Set(float64(len(list)))
	}
	b.meter.queue.WithLabelValues("waiting").Set(float64(countManifests(b.folder.in())))
	b.meter.queue.WithLabelValues("refused").Set(float64(countManifests(b.folder.path("refused"))))
	err := b.meter.refresh(ctx, b.cfg.Ledger, all, time.Now())
	if err = errors.Join(err, b.meter.write()); err != nil && ctx.Err() == nil {
		b.log.Warn("metrics are not up to date", "error", err)
	}
	b.tell(statusLine(b.meter.progress()), "WATCHDOG=1")
}

// tell tells systemd.
func (b *batch) tell(lines ...string) {
	if err := b.systemd.tell(lines...); err != nil {
		b.log.Warn("systemd was not told", "what", strings.Join(lines, " "), "error", err)
	}
}

// flush delivers pending notifications, unless the batch is to stop: they wait.
func (b *batch) flush(ctx context.Context) {
	if !b.stopped(ctx) {
		b.outbox.flush(ctx, time.Now())
	}
}
