package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

func (a *app) runCmd() *cobra.Command {
	var lot string
	var dry bool
	cmd := &cobra.Command{
		Use:   "run MANIFEST",
		Short: "Carry a lot from its manifest to released images; run again, it resumes",
		Long: `Run validates the whole manifest, plans the lot, and carries each device through key,
image and preauthorization. The same command again goes on where the lot stands and
tries failed devices again; conflicts wait for "keymill retry". Interrupt once to end
the steps under way and stop, twice to stop at once.

` + exitCodesHelp,
		Example: "  keymill run manifest.csv --golden golden.sdimg --server https://hosted.mender.io --token-file token\n" +
			"  keymill run manifest.xlsx --lot 2026-W47 --expect 5000 --format pack",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lot == "" {
				lot = files.LotName(args[0])
			}
			if dry {
				return a.plan(cmd, args[0], lot)
			}
			return a.run(cmd, args[0], lot)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be done and change nothing, as plan does")
	cmd.Flags().StringVar(&lot, "lot", "", "name of the lot (default: the manifest's base name)")
	cmd.Flags().StringVar(&a.verifyHow, "verify", verifySample, "compare with the server at the end: all, sample (1 %, at least 50) or none")
	addSettings(cmd, append([]string{"expect", "sheet"}, lineSettings...)...)
	a.replaceAcceptedFlag(cmd)
	a.jsonFlag(cmd)
	return cmd
}

// run is the main job.
func (a *app) run(cmd *cobra.Command, manifest, lot string) error {
	if !slices.Contains([]string{verifyAll, verifySample, verifyNone}, a.verifyHow) {
		return fault.Usagef("--verify is %q; it can be all, sample or none", a.verifyHow)
	}
	if files.SafeName(lot) != lot {
		return fault.Usagef("%q cannot name a lot: letters, digits, dot, dash and underscore can", lot)
	}
	j, planned, err := a.openJob(cmd, lot)
	if err != nil {
		return err
	}
	defer j.Close()
	ctx := cmd.Context()
	if planned {
		err = j.resume(ctx, manifest)
	} else {
		err = j.plan(ctx, manifest, lot)
	}
	if err != nil {
		return err
	}
	return j.carry(ctx, planned, pipeline.Resumable...)
}

// openJob loads the configuration and, where the ledger has the lot, the lot.
func (a *app) openJob(cmd *cobra.Command, name string) (j *job, planned bool, err error) {
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return nil, false, err
	}
	j = &job{app: a, cfg: cfg}
	if j.ledger, err = openKnown(cmd.Context(), cfg.Ledger); err != nil {
		return nil, false, err
	}
	if j.ledger != nil {
		j.lot, err = j.ledger.Lot(cmd.Context(), name)
		planned = err == nil
		if err != nil && !errors.Is(err, ledger.ErrNoLot) {
			return nil, false, errors.Join(err, j.Close())
		}
	}
	if planned {
		if j.cfg, err = a.config(cmd, &j.lot); err != nil {
			return nil, false, errors.Join(err, j.Close())
		}
	}
	j.log = logs.New(j.cfg.Log, a.err)
	return j, planned, nil
}

// resume prepares a lot that the ledger has, after making sure that manifest,
// golden image and settings are those that it was planned with.
func (j *job) resume(ctx context.Context, manifest string) error {
	sum, err := files.SHA256(ctx, manifest)
	if err != nil {
		return fault.As(fault.Manifest, fmt.Errorf("manifest: %w", err))
	}
	return j.reopen(ctx, manifest, sum)
}

// reopen opens golden and server for a planned lot.
func (j *job) reopen(ctx context.Context, manifest, sum string) error {
	if err := j.openGolden(ctx, j.lot.Created); err != nil {
		return err
	}
	asked, err := j.describeLot(j.lot.Name, manifest, sum, j.lot.Devices)
	if err != nil {
		return err
	}
	return sameLot(j.lot, asked)
}

// plan validates everything there is to validate, and only then makes the lot.
func (j *job) plan(ctx context.Context, path, lot string) (err error) {
	ctx, ended := trace.Phase(ctx, "plan")
	defer func() { ended(&err) }()
	manifest, err := openManifest(path, j.cfg, lot, j.ledger)
	if err != nil {
		return err
	}
	defer manifest.Close()
	summary, err := checkManifest(ctx, manifest, j.app.err, fewWarnings)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	if err := j.openGolden(ctx, now); err != nil {
		return err
	}
	if err := j.tryGolden(ctx); err != nil {
		return err
	}
	if j.lot, err = j.describeLot(lot, path, summary.SHA256, summary.Rows); err != nil {
		return err
	}
	j.lot.Created = now
	if err := j.openServices(ctx, summary.Rows); err != nil {
		return err
	}
	if err := j.enoughDisk(summary.Rows); err != nil {
		return err
	}
	if j.ledger == nil {
		if j.ledger, err = ledger.Open(ctx, j.cfg.Ledger); err != nil {
			return err
		}
	}
	event := pipeline.Event{Station: j.lot.Station, Lot: lot, Action: pipeline.ActionPlan, Facts: facts(map[string]string{
		"manifest_sha256": summary.SHA256, "devices": strconv.Itoa(summary.Rows), "golden_sha256": j.lot.GoldenSHA256,
		"inject_sha256": j.lot.InjectSHA256, "format": j.lot.Format, "identity": strings.Join(summary.Identity, ","),
	})}
	err = j.ledger.Plan(ctx, j.lot, event, j.distinctNames(manifest.Devices(ctx)))
	if sourceErr, ok := errors.AsType[*nameTaken](err); ok {
		return fault.As(fault.Manifest, pipeline.WithHint(sourceErr,
			"Images are named after the identity's first value: put one first in manifest.identity that is different for each device."))
	}
	if errors.Is(err, ledger.ErrLotExists) {
		return fault.As(fault.Usage, pipeline.WithHint(err, "Another keymill planned it meanwhile; run the same command again when that one has ended."))
	}
	return err
}

// nameTaken says that two devices would have the same image file.
type nameTaken struct {
	row  int
	name string
}

func (n *nameTaken) Error() string {
	return fmt.Sprintf("row %d: another device's image is named %s already; nothing was changed", n.row, n.name)
}

// distinctNames passes devices on as long as their image files have names of
// their own.
func (j *job) distinctNames(devices iter.Seq2[pipeline.Device, error]) iter.Seq2[pipeline.Device, error] {
	if j.lot.Format == config.FormatPack {
		return devices
	}
	return func(yield func(pipeline.Device, error) bool) {
		seed, seen := maphash.MakeSeed(), map[uint64]struct{}{}
		for dev, err := range devices {
			if err == nil {
				name := strings.ToLower(files.SafeName(dev.Identity.Name()))
				sum := maphash.String(seed, name)
				if _, taken := seen[sum]; taken {
					err = &nameTaken{dev.Row, name}
				}
				seen[sum] = struct{}{}
			}
			if !yield(dev, err) || err != nil {
				return
			}
		}
	}
}

// openServices opens keys and server and asks the server whether it lets us work.
func (j *job) openServices(ctx context.Context, due int) (err error) {
	if j.keys == nil {
		if j.keys, err = j.app.openKeys(ctx, j.cfg, j.log); err != nil {
			return err
		}
	}
	if j.server == nil {
		if j.server, err = j.app.openServer(j.cfg, j.log); err != nil {
			return err
		}
		probe, err := j.server.Probe(ctx)
		if err != nil {
			return err
		}
		for _, warning := range viewServer(probe).warnings(due, 0) {
			j.log.Warn(warning)
		}
	}
	return nil
}

// carry opens what is written to, recovers what an interruption left, carries
// the devices in the given states, and closes the books of the run.
func (j *job) carry(ctx context.Context, resumed bool, states ...pipeline.State) error {
	trace.DescribeLot(ctx, j.lot)
	before, err := j.ledger.Totals(ctx, j.lot.Name)
	if err != nil {
		return err
	}
	due := 0
	for _, state := range states {
		due += *before.Count(state)
	}
	if due == 0 {
		return j.settle(ctx, before, time.Now())
	}
	if err := j.openServices(ctx, due); err != nil {
		return err
	}
	if err := j.openSigner(ctx); err != nil {
		return err
	}
	if err := j.openProducts(ctx, resumed); err != nil {
		return err
	}
	started := time.Now()
	run, err := j.startRun(ctx)
	if err != nil {
		return err
	}
	line := j.line(run)
	if err := j.recover(ctx, line, resumed); err != nil {
		return err
	}
	if err := j.destroySuperseded(ctx, run); err != nil {
		return err
	}
	show := startProgress(ctx, j.app.err, j.log, due, func(n int64) time.Duration { return j.server.Stats().Left(int(n)) })
	line.Reached = show.reached
	if j.app.observe != nil {
		j.app.observe(j, line)
	}
	carrying, ended := trace.Phase(ctx, "carry")
	err = line.Carry(carrying, j.app.brake.drainable(), j.ledger.Records(ctx, j.lot.Name, states...))
	ended(&err)
	show.end()
	logLoad(ctx, j.log, j.keys.Load())
	return j.endRun(ctx, line, started, err)
}

// startRun writes down who begins this run with what, and returns its number.
func (j *job) startRun(ctx context.Context) (int64, error) {
	config, err := j.cfg.Hash()
	if err != nil {
		return 0, err
	}
	inject, err := json.Marshal(j.cfg.Image.Inject)
	if err != nil {
		return 0, err
	}
	known := map[string]string{
		"operator": j.cfg.Audit.Operator, "tool": "keymill " + build.Version(), "tool_sha256": build.Hash(),
		"config_sha256": config, "work_order": j.cfg.Audit.WorkOrder, "inject": string(inject),
		"server": j.lot.Server, "manifest_sha256": j.lot.ManifestSHA256, "golden_sha256": j.lot.GoldenSHA256,
		"inject_sha256": j.lot.InjectSHA256, "format": j.lot.Format, "algorithm": j.lot.Algorithm, "on_conflict": string(j.app.policy(j.cfg)),
	}
	maps.Copy(known, originFacts(j.keys.Origin()))
	return j.ledger.Append(ctx, pipeline.Event{
		Station: j.cfg.Audit.Station, Lot: j.lot.Name, Action: pipeline.ActionRun, Facts: facts(known)})
}

func (j *job) line(run int64) *pipeline.Line {
	return pipeline.NewLine(pipeline.LineConfig{
		Lot: j.lot, Station: j.cfg.Audit.Station, Run: run,
		Ledger: j.ledger, Keys: j.keys, Images: j.images, Server: j.server,
		Policy: j.app.policy(j.cfg), Limits: pipeline.Limits{Devices: j.cfg.Workers, Images: imagesAtOnce(j.lot.Format)},
		Log: j.log, Follow: j.app.telemetry.follower(),
	})
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
func (j *job) recover(ctx context.Context, line *pipeline.Line, resumed bool) (err error) {
	if !resumed {
		return nil
	}
	ctx, ended := trace.Phase(ctx, "recover")
	defer func() { ended(&err) }()
	found, err := line.Recover(ctx, j.lot.Format != config.FormatPack)
	if err != nil {
		return err
	}
	if found.Destroyed > 0 || found.Settled > 0 {
		j.log.Info("recovered after an interruption", "keys_destroyed", found.Destroyed, "copies_destroyed", found.Settled)
	}
	return nil
}

// facts makes an event's facts of a map: sorted, empty ones left out.
func facts(values map[string]string) []pipeline.Attr {
	var list []pipeline.Attr
	for name, value := range values {
		if value != "" {
			list = append(list, pipeline.Attr{Name: name, Value: value})
		}
	}
	slices.SortFunc(list, func(a, b pipeline.Attr) int { return strings.Compare(a.Name, b.Name) })
	return list
}
