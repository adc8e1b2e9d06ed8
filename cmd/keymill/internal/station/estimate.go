package station

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/pipeline/mender"
)

// Estimate is what a lot would take. It is the JSON of `plan --json`.
type Estimate struct {
	Lot       string     `json:"lot"`
	Resumes   bool       `json:"resumes"`
	Devices   int        `json:"devices"`
	Warnings  int        `json:"warnings"`
	Identity  []string   `json:"identity"`
	Golden    string     `json:"golden"`
	Data      *DataView  `json:"data_partition,omitempty"` // nil where nothing is put there
	Format    string     `json:"format"`
	Keys      string     `json:"keys"`
	Algorithm string     `json:"algorithm"`
	Disk      DiskNeed   `json:"disk"`
	Server    ServerView `json:"server"`
	// InventoryRequests is how many more requests describing the devices takes.
	InventoryRequests int `json:"inventory_requests,omitempty"`
	// Concerns are what stands in the lot's way at the server.
	Concerns []mender.Concern `json:"concerns"`
	KeyRate  float64          `json:"keys_per_second"`
	Seconds  float64          `json:"estimated_seconds"`
}

// EstimateLot does everything that Run does before the first change, and
// estimates what the lot would take.
func EstimateLot(ctx context.Context, o Options, path, name string) (Estimate, error) {
	l, err := Open(ctx, o, name)
	if err != nil {
		return Estimate{}, err
	}
	defer l.Close()
	manifest, err := OpenManifest(path, l.Config, name, l.Ledger)
	if err != nil {
		return Estimate{}, err
	}
	defer manifest.Close()
	summary, err := o.checkManifest(ctx, manifest)
	if err != nil {
		return Estimate{}, err
	}
	if err := l.checkGiven(ctx, manifest.Devices(ctx)); err != nil {
		return Estimate{}, err
	}
	if err := l.openGolden(ctx, time.Now().UTC().Truncate(time.Second)); err != nil {
		return Estimate{}, err
	}
	if err := l.tryGolden(ctx); err != nil {
		return Estimate{}, err
	}
	var data *DataView
	if view, err := l.dataView(); err == nil {
		data = &view
	}
	asked, err := l.describeLot(name, path, summary.SHA256, summary.Rows)
	if err != nil {
		return Estimate{}, err
	}
	if l.planned {
		if err := sameLot(l.Lot, asked); err != nil {
			return Estimate{}, err
		}
	}
	l.Lot = asked
	result := Estimate{
		Lot: name, Resumes: l.planned, Devices: summary.Rows, Warnings: summary.Warnings, Identity: summary.Identity,
		Golden: l.GoldenPath, Data: data, Format: l.Format, Keys: l.Keys, Algorithm: l.Algorithm,
	}
	return result, l.estimate(ctx, &result)
}

// estimate asks disk, server and source of keys what the lot will take.
func (l *Lot) estimate(ctx context.Context, result *Estimate) (err error) {
	if result.Disk, err = l.diskFor(result.Devices); err != nil {
		return fault.StorageOutage(err)
	}
	if l.Server, err = l.opts.OpenServer(l.Config, l.Log); err != nil {
		return err
	}
	probe, err := l.Server.ProbeNow(ctx)
	if err != nil {
		return err
	}
	result.Server = viewServer(probe)
	adds, err := l.adds(ctx, result.Devices)
	if err != nil {
		return err
	}
	if result.Concerns, err = l.tierConcerns(ctx); err != nil {
		return err
	}
	if l.keys, err = l.opts.openKeys(ctx, l.Config, l.Log); err != nil {
		return err
	}
	if result.KeyRate, err = keyRate(ctx, l.keys); err != nil {
		return err
	}
	// A real server takes a few hundred preauthorizations a second at best.
	rate := serverRate
	if result.KeyRate > 0 {
		rate = min(rate, result.KeyRate)
	}
	if result.InventoryRequests, err = inventoryRequests(l.Config.Server.Device, result.Devices); err != nil {
		return err
	}
	result.Seconds = float64(result.Devices)/rate + float64(result.InventoryRequests)/serverRate
	plan := lotPlan(l.Config, adds, time.Duration(result.Seconds*float64(time.Second)))
	plan.Identity = result.Identity
	result.Concerns = append(result.Concerns, probe.Concerns(plan, time.Now())...)
	return nil
}

// keyRate makes keys for a fifth of a second, or one, and says how many a second
// that is: of one core, or of all sessions of a token. It is 0 for keys that
// would stay in their token.
func keyRate(ctx context.Context, keys keySource) (float64, error) {
	if _, given := keys.(*givenKeys); given || keys.Origin().Mode == hsm.ModeToken {
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
