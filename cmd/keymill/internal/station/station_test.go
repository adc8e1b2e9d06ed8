package station

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/trial"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// planned opens and plans a lot of the trial's manifest.
func planned(t *testing.T, w *trial.Trial, more map[string]any) *Lot {
	t.Helper()
	l, err := Open(t.Context(), Options{Settings: w.Settings(more)}, "lot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Plan(t.Context(), w.Path("manifest.csv")); err != nil {
		t.Fatal(err)
	}
	return l
}

// records are the lot's records.
func records(t *testing.T, l *Lot) (all []*pipeline.Record) {
	t.Helper()
	for rec, err := range l.Ledger.Records(t.Context(), l.Name) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

// TestOne carries one device of three with a real golden image and the sandbox:
// its image holds its key, the server knows it, and the others did not move.
func TestOne(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	w := trial.New(t, 3, sandbox.Config{})
	l := planned(t, w, nil)
	if err := l.Begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	rec := records(t, l)[1]
	if err := l.One(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	totals, err := l.End(t.Context(), nil)
	if err != nil || totals.Released != 1 || totals.Planned != 2 {
		t.Errorf("%v: %+v", err, totals)
	}
	device, found := w.Box.Find(rec.Identity.JSON())
	if rec.State != pipeline.Released || !found || len(device.AuthSets) != 1 || !slices.Equal(device.AuthSets[0].SPKI, rec.PublicKey) {
		t.Errorf("the record is %s (%s), the server holds %+v", rec.State, rec.Reason, device)
	}
	if n := w.Devices(); n != 1 {
		t.Errorf("the server has %d devices", n)
	}
	image, closeImage, err := OpenImage(t.Context(), w.Path("out", "images", rec.Output.Name), "")
	if err != nil {
		t.Fatal(err)
	}
	defer closeImage()
	private, err := image.ReadFile(t.Context(), pipeline.DefaultInject()[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := pipeline.MatchKey(private, rec.PublicKey); err != nil {
		t.Error(err)
	}
	out, err := l.Settle(t.Context())
	if err != nil || !out.Settled || out.Failures != "" || out.Products != w.Path("out", "images") {
		t.Errorf("%v: %+v", err, out)
	}
}

// TestTwoChunks: two callers at once carry a chunk each of one lot; both share
// its pack, its keys and its limits.
func TestTwoChunks(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	w := trial.New(t, 60, sandbox.Config{Seed: 2, Faults: sandbox.Faults{Fail: 0.05}})
	l := planned(t, w, map[string]any{"image.format": "pack", "workers": "8"})
	if err := l.Begin(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	all := records(t, l)
	chunk := func(list []*pipeline.Record) iter.Seq2[*pipeline.Record, error] {
		return func(yield func(*pipeline.Record, error) bool) {
			for _, rec := range list {
				if !yield(rec, nil) {
					return
				}
			}
		}
	}
	callers, ctx := errgroup.WithContext(t.Context())
	callers.Go(func() error { return l.Carry(ctx, chunk(all[:30])) })
	callers.Go(func() error { return l.Carry(ctx, chunk(all[30:])) })
	carried := callers.Wait()
	if _, err := l.End(t.Context(), carried); err != nil {
		t.Fatal(err)
	}
	out, err := l.Settle(t.Context())
	if err != nil || out.Totals.Released != 60 || out.Verified == nil || !out.Verified.OK {
		t.Errorf("%v: %+v", err, out)
	}
	if n := w.Devices(); n != 60 {
		t.Errorf("the server has %d devices", n)
	}
}

// TestRekeyNeedsAll: without a server, no key is destroyed for a new one.
func TestRekeyNeedsAll(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	w := trial.New(t, 1, sandbox.Config{})
	settings := w.Settings(map[string]any{"image.format": "pack"})
	if _, err := Run(t.Context(), Options{Settings: settings}, w.Path("manifest.csv"), "lot"); err != nil {
		t.Fatal(err)
	}
	before := packed(t, w)
	w.Box.Revoke()
	view, err := OpenView(t.Context(), settings, "lot")
	if err != nil {
		t.Fatal(err)
	}
	var device string
	for rec, err := range view.Records(t.Context(), "lot") {
		if err != nil {
			t.Fatal(err)
		}
		device = rec.Identity.Name()
	}
	if err := view.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Retry(t.Context(), Options{Settings: settings}, "lot", []string{device})
	if fault.KindOf(err) != fault.Server {
		t.Errorf("got %v", err)
	}
	if after := packed(t, w); after != before || before != 1 {
		t.Errorf("the pack had %d keys, and has %d", before, after)
	}
}

// packed is how many keys the lot's pack holds.
func packed(t *testing.T, w *trial.Trial) int {
	t.Helper()
	pack, err := imaging.ReadPack(w.Path("out", "lot.pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	n := 0
	for entry, err := range pack.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !entry.Destroyed {
			n++
		}
	}
	return n
}

// TestDrained: a lot that was told to stop moves no device, and
// says so.
func TestDrained(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	w := trial.New(t, 2, sandbox.Config{})
	drained := make(chan struct{})
	close(drained)
	o := Options{Settings: w.Settings(nil), Drain: func() <-chan struct{} { return drained }}
	out, err := Run(t.Context(), o, w.Path("manifest.csv"), "lot")
	if fault.KindOf(err) != fault.Interrupted || !errors.Is(err, context.Canceled) || !out.Settled || out.Totals.Planned != 2 {
		t.Errorf("%v: %+v", err, out)
	}
}
