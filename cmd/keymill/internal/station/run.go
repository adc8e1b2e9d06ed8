package station

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"time"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
)

// underway is what is open while devices move.
type underway struct {
	id      int64 // Seq of the run-started event
	line    *pipeline.Line
	started time.Time
	show    func() // ends the progress; nil where none is shown
}

func (r *underway) stopShowing() {
	if r.show != nil {
		r.show()
		r.show = nil
	}
}

// Run takes the lot of a manifest from where it stands as far as it goes, and
// closes it when it is complete. The same call again goes on from there.
func Run(ctx context.Context, o Options, manifest, name string) (Outcome, error) {
	l, err := Open(ctx, o, name)
	if err != nil {
		return Outcome{}, err
	}
	defer l.Close()
	if l.planned {
		err = l.Resume(ctx, manifest)
	} else {
		err = l.Plan(ctx, manifest)
	}
	if err != nil {
		return Outcome{}, err
	}
	return l.Work(ctx, pipeline.Resumable...)
}

// Retry takes up the devices of a lot that failed or conflict, too. Devices in
// rekey, each named by an identity value or its serial, get new keys: before
// the old ones are destroyed everything is opened that making new ones needs.
func Retry(ctx context.Context, o Options, name string, rekey []string) (Outcome, error) {
	l, err := OpenPlanned(ctx, o, name)
	if err != nil {
		return Outcome{}, err
	}
	defer l.Close()
	if err := l.Reopen(ctx); err != nil {
		return Outcome{}, err
	}
	if len(rekey) > 0 {
		if err := l.Rekey(ctx, rekey); err != nil {
			return Outcome{}, err
		}
	}
	return l.Work(ctx, Retryable()...)
}

// Retryable are the states that Retry takes devices up from.
func Retryable() []pipeline.State {
	return []pipeline.State{pipeline.Planned, pipeline.Staged, pipeline.Preauthorized, pipeline.Failed, pipeline.Conflicted}
}

// Work carries the lot's devices in the given states, closes the books of the
// run, and settles the lot.
func (l *Lot) Work(ctx context.Context, states ...pipeline.State) (Outcome, error) {
	trace.DescribeLot(ctx, l.Lot)
	before, err := l.Ledger.Totals(ctx, l.Name)
	if err != nil {
		return Outcome{}, err
	}
	due := 0
	for _, state := range states {
		due += *before.Count(state)
	}
	if due == 0 {
		return l.settle(ctx, before)
	}
	return l.work(ctx, due, l.Ledger.Records(ctx, l.Name, states...))
}

// work carries the given devices, due in number.
func (l *Lot) work(ctx context.Context, due int, records iter.Seq2[*pipeline.Record, error]) (Outcome, error) {
	if err := l.Begin(ctx, due); err != nil {
		return Outcome{}, err
	}
	carrying, ended := trace.Phase(ctx, "carry")
	err := l.Carry(carrying, records)
	ended(&err)
	totals, err := l.End(ctx, err)
	if err != nil {
		return Outcome{}, err
	}
	return l.settle(ctx, totals)
}

// Begin opens what devices need, writes down that a run begins, and recovers
// what an interruption left. due is how many devices will be carried. The lot
// must have been planned, resumed or reopened.
func (l *Lot) Begin(ctx context.Context, due int) (err error) {
	if err := l.openServices(ctx, due); err != nil {
		return err
	}
	if err := l.openSigner(ctx); err != nil {
		return err
	}
	if err := l.checkHeads(ctx); err != nil {
		return err
	}
	if err := l.checkWorkOrder(ctx); err != nil {
		return err
	}
	if err := l.openAuthority(ctx); err != nil {
		return err
	}
	if err := l.openProducts(ctx); err != nil {
		return err
	}
	l.images.finder = finderOf(l.keys, l.Config.Keys.Device)
	r := &underway{started: time.Now()}
	if r.id, err = l.startRun(ctx); err != nil {
		return err
	}
	line := pipeline.LineConfig{
		Lot: l.Lot, Station: l.Config.Audit.Station, Run: r.id,
		Ledger: l.Ledger, Keys: l.keys, Images: l.images, Server: l.Server,
		Policy: l.opts.policy(l.Config), Limits: pipeline.Limits{Devices: l.Config.Workers, Images: imagesAtOnce(l.Format)},
		Log: l.Log, Follow: l.opts.Hooks.Follow,
	}
	if progress := l.opts.Hooks.Progress; progress != nil {
		line.Reached, r.show = progress(ctx, l.Log, due, func(n int64) time.Duration { return l.Server.Stats().Left(int(n)) })
	}
	if l.opts.Hooks.Begun != nil {
		l.opts.Hooks.Begun(Begun{Lot: l.Lot, Line: &line, Server: l.Server})
	}
	r.line = pipeline.NewLine(line)
	l.run = r
	if l.opts.Drain != nil {
		l.drain = l.opts.Drain()
	}
	if err := l.recover(ctx, r.line); err != nil {
		return err
	}
	return l.destroySuperseded(ctx, r.id)
}

// resumed reports whether devices of the lot may have moved before this run.
func (l *Lot) resumed() bool { return l.planned }

// Carry carries devices of the lot between Begin and End; see pipeline.Line.
func (l *Lot) Carry(ctx context.Context, records iter.Seq2[*pipeline.Record, error]) error {
	return l.run.line.Carry(ctx, l.drain, records)
}

// CarryHeld is Carry for devices that the station has a lease on.
func (l *Lot) CarryHeld(ctx context.Context, records iter.Seq2[*pipeline.Record, error], hold pipeline.Hold) error {
	return l.run.line.CarryHeld(ctx, l.drain, records, hold)
}

// One carries one device of the lot between Begin and End; see pipeline.Line.
func (l *Lot) One(ctx context.Context, rec *pipeline.Record) error {
	return l.run.line.One(ctx, rec)
}

// End writes down how the run ended, also when it was cut off, and returns how
// the lot stands. carryErr is what stopped the run, nil if it came to its end or
// was drained; End returns it.
func (l *Lot) End(ctx context.Context, carryErr error) (pipeline.Totals, error) {
	r := l.run
	r.stopShowing()
	l.run = nil
	logLoad(ctx, l.Log, l.keys.Load())
	after := context.WithoutCancel(ctx)
	totals, err := l.Ledger.Totals(after, l.Name)
	if err != nil {
		return totals, cmp.Or(carryErr, err)
	}
	reason := "complete"
	switch {
	case carryErr != nil:
		reason = carryErr.Error()
	case l.draining():
		reason = "interrupted"
	}
	_, err = l.Ledger.Append(after, pipeline.Event{
		Station: l.Config.Audit.Station, Lot: l.Name, Run: r.id, Action: pipeline.ActionRunEnd, Reason: reason, Facts: totalFacts(totals),
	})
	return totals, cmp.Or(carryErr, err)
}

// draining reports whether the run was told to begin no new step.
func (l *Lot) draining() bool {
	select {
	case <-l.drain:
		return true
	default:
		return false
	}
}

// openServices opens keys and server and asks the server whether it lets us work.
func (l *Lot) openServices(ctx context.Context, due int) (err error) {
	if l.keys == nil {
		if l.keys, err = l.opts.openKeys(ctx, l.Config, l.Log); err != nil {
			return err
		}
	}
	return l.openServer(ctx, due)
}

// openServer opens the server and asks it whether it lets us work on so many devices.
func (l *Lot) openServer(ctx context.Context, due int) (err error) {
	if l.Server != nil {
		return nil
	}
	if l.Server, err = l.opts.OpenServer(l.Config, l.Log); err != nil {
		return err
	}
	probe, err := l.Server.Probe(ctx)
	if err != nil {
		return err
	}
	adds, err := l.adds(ctx, due)
	if err != nil {
		return err
	}
	return l.worry(&probe, adds)
}

// startRun writes down who begins this run with what, and returns its number.
func (l *Lot) startRun(ctx context.Context) (int64, error) {
	config, err := l.Config.Hash()
	if err != nil {
		return 0, err
	}
	inject, err := json.Marshal(l.Config.Image.Inject)
	if err != nil {
		return 0, err
	}
	known := map[string]string{
		"operator": l.Config.Audit.Operator, "tool": "keymill " + build.Version(), "tool_sha256": build.Hash(),
		"config_sha256": config, "work_order": l.Config.Audit.WorkOrder, "inject": string(inject),
		"server": l.Lot.Server, "manifest_sha256": l.Lot.ManifestSHA256, "golden_sha256": l.Lot.GoldenSHA256,
		"inject_sha256": l.Lot.InjectSHA256, "format": l.Lot.Format, "algorithm": l.Lot.Algorithm, "on_conflict": string(l.opts.policy(l.Config)),
	}
	maps.Copy(known, originFacts(l.keys.Origin()))
	maps.Copy(known, l.authority.facts())
	maps.Copy(known, l.order.facts())
	return l.Ledger.Append(ctx, pipeline.Event{
		Station: l.Config.Audit.Station, Lot: l.Lot.Name, Action: pipeline.ActionRun, Facts: Facts(known)})
}

// imagesAtOnce is how many images are written at once. Small files wait for the
// disk's syncs, which they share; whole images keep it busy by themselves.
func imagesAtOnce(format string) int {
	switch format {
	case config.FormatPack:
		return 128
	case "qcow2", "bmap", "simg":
		return 256 // enough for 2,000 a second where a sync takes 20 ms
	}
	return 0 // the pipeline's default
}

// recover puts pack and ledger in step before devices move.
func (l *Lot) recover(ctx context.Context, line *pipeline.Line) (err error) {
	if !l.resumed() {
		return nil
	}
	ctx, ended := trace.Phase(ctx, "recover")
	defer func() { ended(&err) }()
	if err := l.imagesBehind(ctx); err != nil {
		return err
	}
	found, err := line.Recover(ctx, l.Lot.Format != config.FormatPack)
	if behind, ok := errors.AsType[*pipeline.BehindError](err); ok {
		return fault.As(fault.Storage, behind)
	}
	if err != nil {
		return err
	}
	if found.Destroyed > 0 || found.Settled > 0 || found.Given > 0 {
		l.Log.Info("recovered after an interruption", "keys_destroyed", found.Destroyed+found.Given, "copies_destroyed", found.Settled)
	}
	return nil
}
