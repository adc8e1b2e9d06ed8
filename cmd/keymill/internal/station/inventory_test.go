package station_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/pipeline/mender"
	"keymill/pipeline/mender/sandbox"
)

// describedLot is the settings of a lot whose devices get name, group and tags.
func describedLot(f *trial.Trial, more map[string]any) station.Options {
	settings := map[string]any{
		"image.format": "pack", "report.formats": "csv", "server.device.name": "unit {{.serial}}", "server.device.group": "line-3",
		"server.device.tags": map[string]any{"mac_seen": "{{.mac}}"},
	}
	for name, value := range more {
		settings[name] = value
	}
	return station.Options{Settings: f.Settings(settings)}
}

// checkDescribed looks with the sandbox's own eyes.
func checkDescribed(t *testing.T, f *trial.Trial, n int) {
	t.Helper()
	described := 0
	for d := range f.Box.Devices() {
		if d.Group == "line-3" && len(d.Tags) == 2 && d.Identity == fmt.Sprintf(`{"mac":%q}`, d.Tags["mac_seen"]) && len(d.Tags[mender.TagName]) > len("unit ") {
			described++
		}
	}
	if described != n {
		t.Errorf("%d devices are described, want %d", described, n)
	}
}

// The devices of a lot get their names, groups and tags, in spite of faults, of
// an inventory that lags behind, and of a run that is cut off in the middle.
func TestLotIsDescribed(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	const n = 300
	f := trial.New(t, n, sandbox.Config{
		InventoryLag: 300 * time.Millisecond, Seed: 5, Faults: sandbox.Faults{Fail: 0.02, Reset: 0.02, Stored500: 0.01},
	})
	o := describedLot(f, nil)
	ctx, cut := context.WithCancel(t.Context())
	o.Hooks.FollowRequest = func(_ context.Context, a mender.Attempt) func(mender.Answer) {
		if a.Method == http.MethodPatch {
			cut() // the process is gone while the inventory is being told
		}
		return func(mender.Answer) {}
	}
	if _, err := station.Run(ctx, o, f.Path("manifest.csv"), "w47"); !errors.Is(err, context.Canceled) {
		t.Fatalf("the run that was cut off: %v", err)
	}
	cut()
	o.Hooks.FollowRequest = nil
	out, err := station.Run(t.Context(), o, f.Path("manifest.csv"), "w47")
	if err != nil || out.Totals.Released != n || out.Totals.InventoryPending != 0 || !out.Described.Asked {
		t.Fatalf("%+v, %v", out, err)
	}
	checkDescribed(t, f, n)

	l, err := station.OpenPlanned(t.Context(), o, "w47")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found, err := l.Verify(t.Context(), station.VerifyOptions{Inventory: true})
	if err != nil || !found.OK || found.Inventory.Counts["done"] != n {
		t.Errorf("%+v, %v", found, err)
	}
}

// A lot on a server without an inventory is released and closed; what could not
// be done is told, and can be tried again.
func TestLotWithoutInventory(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	f := trial.New(t, 20, sandbox.Config{NoInventory: true, MaxDevices: 100})
	o := describedLot(f, nil)
	out, err := station.Run(t.Context(), o, f.Path("manifest.csv"), "w47")
	if err != nil || out.Totals.Released != 20 || out.Totals.InventoryPending != 20 || !errors.Is(out.Described.Trouble, mender.ErrNoInventory) {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = station.RetryInventory(t.Context(), o, "w47")
	if fault.KindOf(err) != fault.Server || fault.Hint(err) == "" {
		t.Errorf("tried again: %v, %v", fault.KindOf(err), err)
	}
	plain := station.Options{Settings: f.Settings(map[string]any{"image.format": "pack"})}
	if _, err = station.RetryInventory(t.Context(), plain, "w47"); fault.KindOf(err) != fault.Usage {
		t.Errorf("where nothing is asked for: %v", err)
	}
}

// What the inventory would refuse is refused before there is a lot.
func TestDescriptionsAreChecked(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	f := trial.New(t, 3, sandbox.Config{})
	for name, more := range map[string]map[string]any{
		"name twice":   {"server.device.tags": map[string]any{"name": "x"}},
		"tag's name":   {"server.device.tags": map[string]any{"a.b": "x"}},
		"template":     {"server.device.name": "{{.serial"},
		"no attribute": {"server.device.name": "{{.colour}}"},
	} {
		_, err := station.Run(t.Context(), describedLot(f, more), f.Path("manifest.csv"), "w47")
		if kind := fault.KindOf(err); kind != fault.Usage && kind != fault.Manifest {
			t.Errorf("%s: %v, %v", name, kind, err)
		}
	}
	if n := f.Devices(); n != 0 {
		t.Errorf("%d devices are on the server", n)
	}
}

// A lot beyond the server's limit is refused before there is one; a decision of
// a person lets it go on. A limit that was reached by the lot itself stops no
// second run.
func TestLimitIsALimit(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	f := trial.New(t, 20, sandbox.Config{MaxDevices: 19})
	o := station.Options{Settings: f.Settings(map[string]any{"image.format": "pack", "report.formats": "csv"})}
	estimate, err := station.EstimateLot(t.Context(), o, f.Path("manifest.csv"), "w47")
	if err != nil || fault.KindOf(station.Refusal(estimate.Concerns)) != fault.Server {
		t.Errorf("plan: %+v, %v", estimate.Concerns, err)
	}
	if _, err := station.Run(t.Context(), o, f.Path("manifest.csv"), "w47"); fault.KindOf(err) != fault.Server || f.Devices() != 0 {
		t.Errorf("run: %v, and %d devices are on the server", err, f.Devices())
	}
	allowed := station.Options{Settings: f.Settings(map[string]any{"image.format": "pack", "report.formats": "csv", "server.over_limit": "allow"})}
	for range 2 {
		if out, err := station.Run(t.Context(), allowed, f.Path("manifest.csv"), "w47"); err != nil || out.Totals.Released != 20 {
			t.Errorf("%+v, %v", out, err)
		}
	}
}
