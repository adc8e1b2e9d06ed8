package reports

import (
	"crypto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// oldLedger copies testdata/first-format/keymill.db, which the keymill before lot
// logs made: a closed lot at another station, an open and a closed one at line-3.
func oldLedger(t *testing.T) (*ledger.Ledger, crypto.Signer) {
	t.Helper()
	dir := t.TempDir()
	for name, to := range map[string]string{"keymill.db": "keymill.db", "signing-key.pem": "key.pem"} {
		data, err := os.ReadFile(filepath.Join("testdata/first-format", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, _, err := LoadOrCreateKey(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), filepath.Join(dir, "keymill.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, key
}

// TestOldLedgersGoOn opens a ledger of the first format, goes on with its open lot,
// and exports all: what lies in the old log verifies, with a word on what it cannot
// show, and checkpoints of then are still contained.
func TestOldLedgersGoOn(t *testing.T) {
	l, key := oldLedger(t)
	dir := t.TempDir()
	heads, err := OpenHeads(filepath.Join(dir, "key.heads"))
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Signer: key, Station: "line-3", Journal: l, Heads: heads, Formats: []string{"csv"}}
	trust := trusted(key)
	for _, lot := range []string{"closed", "open"} {
		signed, err := os.ReadFile("testdata/first-format/" + lot + "/log/line-3/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		trust.Since = append(trust.Since, signed)
	}
	export := func(lot string) *Report {
		t.Helper()
		out := filepath.Join(t.TempDir(), "bundle")
		if _, err := Export(t.Context(), l, lot, out, opt); err != nil {
			t.Fatalf("%s: %v", lot, err)
		}
		r, err := VerifyBundle(t.Context(), out, trust)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Problems {
			t.Errorf("%s: %s", lot, p)
		}
		if line := stranger(t, key, out)[0]; !strings.Contains(line, ": valid; note: 'devices hidden") {
			t.Error(line)
		}
		if !strings.Contains(strings.Join(r.Notes, " "), "cannot be excluded") {
			t.Errorf("%s: it does not say what the old log cannot show: %q", lot, r.Notes)
		}
		return r
	}
	export("closed")
	goOn(t, l)
	event, err := Close(t.Context(), l, "open", "line-3")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CloseLot(t.Context(), "open", event); err != nil {
		t.Fatal(err)
	}
	r := export("open")
	if len(r.Logs) != 3 || r.Totals.Undone != 4 {
		t.Errorf("logs %+v, totals %+v", r.Logs, r.Totals)
	}
	trust.Since = nil
	if r := export("demo"); r.Devices != 12 { // of another station, whose log no station log but ours names
		t.Errorf("%+v", r)
	}
}

// goOn undoes what failed in the open lot.
func goOn(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	run, err := l.Append(t.Context(), pipeline.Event{Station: "line-3", Lot: "open", Action: pipeline.ActionRun, Reason: "undo"})
	if err != nil {
		t.Fatal(err)
	}
	undo := pipeline.Transitions{Ledger: l, Station: "line-3", Run: run}
	for rec, err := range l.Records(t.Context(), "open", pipeline.Failed) {
		if err != nil {
			t.Fatal(err)
		}
		if err := undo.Undone(t.Context(), rec, "gone", pipeline.KeyDestroyed); err != nil {
			t.Fatal(err)
		}
	}
}
