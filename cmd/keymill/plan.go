package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/hsm"
)

func (a *app) planCmd() *cobra.Command {
	var lot string
	cmd := &cobra.Command{
		Use:     "plan MANIFEST",
		Short:   "Dry run: counts, template, disk, server, estimated duration",
		Long:    "Plan does everything that run does before the first change, and shows what run would do.\n\n" + exitCodesHelp,
		Example: "  keymill plan manifest.csv --golden golden.sdimg\n  keymill plan manifest.csv --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lot == "" {
				lot = files.LotName(args[0])
			}
			return a.plan(cmd, args[0], lot)
		},
	}
	cmd.Flags().StringVar(&lot, "lot", "", "name of the lot (default: the manifest's base name)")
	addSettings(cmd, append([]string{"expect", "sheet"}, lineSettings...)...)
	a.jsonFlag(cmd)
	return cmd
}

// planResult is the JSON of `plan --json`.
type planResult struct {
	Lot       string     `json:"lot"`
	Resumes   bool       `json:"resumes"`
	Devices   int        `json:"devices"`
	Warnings  int        `json:"warnings"`
	Identity  []string   `json:"identity"`
	Golden    string     `json:"golden"`
	Format    string     `json:"format"`
	Keys      string     `json:"keys"`
	Algorithm string     `json:"algorithm"`
	Disk      diskNeed   `json:"disk"`
	Server    serverView `json:"server"`
	KeyRate   float64    `json:"keys_per_second"`
	Seconds   float64    `json:"estimated_seconds"`
}

func (a *app) plan(cmd *cobra.Command, path, name string) error {
	j, planned, err := a.openJob(cmd, name)
	if err != nil {
		return err
	}
	defer j.Close()
	ctx := cmd.Context()
	manifest, err := openManifest(path, j.cfg, name, j.ledger)
	if err != nil {
		return err
	}
	defer manifest.Close()
	summary, err := checkManifest(ctx, manifest, a.err, fewWarnings)
	if err != nil {
		return err
	}
	if err := j.openGolden(ctx, time.Now().UTC().Truncate(time.Second)); err != nil {
		return err
	}
	if err := j.tryGolden(ctx); err != nil {
		return err
	}
	asked, err := j.describeLot(name, path, summary.SHA256, summary.Rows)
	if err != nil {
		return err
	}
	if planned {
		if err := sameLot(j.lot, asked); err != nil {
			return err
		}
	}
	j.lot = asked
	result := planResult{
		Lot: name, Resumes: planned, Devices: summary.Rows, Warnings: summary.Warnings, Identity: summary.Identity,
		Golden: j.lot.GoldenPath, Format: j.lot.Format, Keys: j.lot.Keys, Algorithm: j.lot.Algorithm,
	}
	if err := j.estimate(ctx, &result); err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(result)
	}
	a.printPlan(result)
	return nil
}

// estimate asks disk, server and source of keys what the lot will take.
func (j *job) estimate(ctx context.Context, result *planResult) (err error) {
	if result.Disk, err = j.diskFor(result.Devices); err != nil {
		return fault.StorageOutage(err)
	}
	if j.server, err = j.app.openServer(j.cfg, j.log); err != nil {
		return err
	}
	probe, err := j.server.ProbeNow(ctx)
	if err != nil {
		return err
	}
	result.Server = viewServer(probe)
	if j.keys, err = j.app.openKeys(ctx, j.cfg, j.log); err != nil {
		return err
	}
	if result.KeyRate, err = keyRate(ctx, j.keys); err != nil {
		return err
	}
	// A real server takes a few hundred preauthorizations a second at best.
	rate := 400.0
	if result.KeyRate > 0 {
		rate = min(rate, result.KeyRate)
	}
	result.Seconds = float64(result.Devices) / rate
	return nil
}

// keyRate makes keys for a fifth of a second, or one, and says how many a second
// that is: of one core, or of all sessions of a token. It is 0 for keys that
// would stay in their token.
func keyRate(ctx context.Context, keys keySource) (float64, error) {
	if keys.Origin().Mode == hsm.ModeToken {
		return 0, nil
	}
	var made atomic.Int64
	start := time.Now()
	callers, ctx := errgroup.WithContext(ctx)
	for range max(keys.Load().Sessions, 1) { // no more: a smart card takes a minute for a key
		callers.Go(func() error {
			for time.Since(start) < 200*time.Millisecond {
				private, _, err := keys.Generate(ctx, "plan")
				if err != nil {
					return err
				}
				hsm.Wipe(private)
				made.Add(1)
			}
			return nil
		})
	}
	err := callers.Wait()
	return float64(made.Load()) / time.Since(start).Seconds(), err
}

// keySpeed says keyRate in words.
func (r *planResult) keySpeed() string {
	switch r.Keys {
	case string(hsm.ModeSoftware):
		return fmt.Sprintf("about %.0f a second and core", r.KeyRate)
	case string(hsm.ModeToken):
		return "as fast as the token makes them"
	}
	return fmt.Sprintf("about %.0f a second", r.KeyRate)
}

func (a *app) printPlan(r planResult) {
	verb := "would be planned"
	if r.Resumes {
		verb = "is planned and would be resumed"
	}
	a.printf("Lot %s %s: %d devices, identity %v, %d warnings\n", r.Lot, verb, r.Devices, r.Identity, r.Warnings)
	a.printf("Golden:   %s\n", r.Golden)
	a.printf("Keys:     %s, %s, %s\n", r.Algorithm, r.Keys, r.keySpeed())
	shared := ""
	if r.Disk.Reflinks {
		shared = " (images share golden's blocks)"
	}
	a.printf("Disk:     %s a device, %s in all, %s free%s\n", say.Bytes(r.Disk.PerDevice), say.Bytes(r.Disk.Total), say.Bytes(r.Disk.Free), shared)
	if r.Disk.Total > r.Disk.Free {
		a.printf("          TOO LITTLE: run would refuse; --format pack takes a few KiB a device\n")
	}
	a.printf("Server:   %s\n", r.Server)
	takes := time.Duration(r.Seconds * float64(time.Second))
	for _, warning := range r.Server.warnings(r.Devices, takes) {
		a.printf("          WARNING: %s\n", warning)
	}
	a.printf("Duration: about %s, if the server takes 400 devices a second\n", takes.Round(time.Second))
}
