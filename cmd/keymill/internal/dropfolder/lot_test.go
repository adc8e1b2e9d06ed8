package dropfolder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/metrics"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline/mender/sandbox"
)

// TestBatchLeavesLotsThatFailed: a device that conflicts keeps its lot in
// work/. Once somebody has decided, the next batch puts the lot away, and goes
// on with new manifests after that.
func TestBatchLeavesLotsThatFailed(t *testing.T) {
	n := newNight(t, sandbox.Config{Seed: 1})
	n.manifest("c.csv", 1, 1)
	foreign := station.Options{Settings: n.Settings(map[string]any{"ledger": n.Path("other.db"), "out": n.Path("other"), "image.format": "pack"})}
	if _, err := station.Run(t.Context(), foreign, filepath.Join(n.drop, "in", "c.csv"), "c"); err != nil {
		t.Fatal(err)
	}
	n.manifest("c.csv", 1, 3)
	if kind, log := n.batch(); kind != fault.Devices || !n.lies("work", "c", "c.csv") {
		t.Fatalf("kind %d, work/c/c.csv there: %v\n%s", kind, n.lies("work", "c", "c.csv"), log)
	}
	n.manifest("c.csv", 50, 1) // has to wait for its namesake
	if kind, log := n.batch(); kind != fault.Devices || !n.lies("in", "c.csv") {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	decided := station.Options{Settings: n.Settings(map[string]any{"out": nil, "image.format": "pack", "server.on_conflict": "replace"})}
	if _, err := station.Retry(t.Context(), decided, "c", nil); err != nil {
		t.Fatal(err)
	}
	n.manifest("a.csv", 20, 1)
	kind, log := n.batch() // the namesake is refused now: that lot is made
	if kind != fault.Manifest || !n.lies("refused", "c.csv") {
		t.Errorf("kind %d:\n%s", kind, log)
	}
	if first, then := strings.Index(log, "== c.csv"), strings.Index(log, "== a.csv"); first < 0 || then < first {
		t.Errorf("the unfinished lot does not go first:\n%s", log)
	}
	for _, lot := range []string{"a", "c"} {
		if !n.lies("done", lot, lot+".csv") || !n.lies("done", lot, "report", "devices.csv") {
			t.Errorf("lot %s is not put away", lot)
		}
	}
}

// TestBatchOutage: a server that refuses us ends the batch and leaves the rest
// of the queue where it is.
func TestBatchOutage(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	n.manifest("a.csv", 1, 1)
	n.manifest("b.csv", 5, 1)
	n.Box.Revoke()
	kind, log := n.batch()
	if kind != fault.Server || !n.lies("work", "a", "a.csv") || !n.lies("in", "b.csv") {
		t.Errorf("kind %d:\n%s", kind, log)
	}
	if err := n.Box.WriteFiles(n.Path("sb")); err != nil {
		t.Fatal(err)
	}
	if kind, log := n.batch(); kind != fault.None {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	var outcomes []string
	for _, r := range n.results {
		outcomes = append(outcomes, fmt.Sprintf("%s %s %d", r.Lot, r.Outcome, r.Totals.Released))
	}
	if got := strings.Join(outcomes, ", "); got != "a closed 1, b closed 1" {
		t.Errorf("the results say: %s", got)
	}
}

func TestBatchWorse(t *testing.T) {
	order := []fault.Kind{fault.None, fault.Manifest, fault.Devices, fault.Usage, fault.Server, fault.HSM, fault.Storage, fault.Internal, fault.Interrupted}
	for i, low := range order {
		for _, high := range order[i:] {
			if worse(low, high) != high || worse(high, low) != high {
				t.Errorf("of %d and %d, %d is the worse", low, high, high)
			}
		}
	}
}

// TestBatchManyProblems: a column that is wrong in every row floods neither the
// log nor the folder.
func TestBatchManyProblems(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	const rows = mostReported + 500
	n.Write(filepath.Join("drop", "in", "a.csv"), func(w io.Writer) error {
		_, err := io.WriteString(w, "mac,serial\n"+strings.Repeat("none,x\n", rows))
		return err
	})
	kind, log := n.batch()
	if kind != fault.Manifest || strings.Count(log, "\n") > 400 {
		t.Errorf("kind %d, %d lines", kind, strings.Count(log, "\n"))
	}
	text, err := os.ReadFile(filepath.Join(n.drop, "refused", "a.csv.problems.json"))
	var report refusal
	if err != nil || json.Unmarshal(text, &report) != nil || len(report.Problems) != mostReported || report.More < 500 {
		t.Errorf("%v: %d problems, %d more", err, len(report.Problems), report.More)
	}
}

// TestBatchTellsOnce: a lot that fails again in the same way is not told again.
func TestBatchTellsOnce(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	t.Setenv("KEYMILL_NOTIFY_COMMAND", "false")
	b := n.open()
	d := dropped{filepath.Join(n.drop, "work", "a", "a.csv"), "a"}
	for i, step := range []struct {
		kind fault.Kind
		told int
	}{{fault.Devices, 1}, {fault.Devices, 1}, {fault.Server, 2}, {fault.Devices, 3}} {
		b.outbox.Rest(time.Now().Add(time.Hour))
		if err := b.settle(t.Context(), d, &Result{Lot: "a", Outcome: metrics.Failed, ExitCode: step.kind.ExitCode(), Error: strings.Repeat("x", i)}); err != nil {
			t.Fatal(err)
		}
		if got := b.outbox.Count(); got != step.told {
			t.Errorf("after failure %d: %d are told, want %d", i, got, step.told)
		}
	}
}

// TestBatchLateRows: a manifest that grew while its lot was made is not put away
// as if all of it had been.
func TestBatchLateRows(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	n.manifest("a.csv", 1, 3)
	if kind, log := n.batch(); kind != fault.None {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	work, done := filepath.Join(n.drop, "work", "a"), filepath.Join(n.drop, "done", "a")
	if err := errors.Join(os.Mkdir(work, 0o700), os.Rename(filepath.Join(done, "a.csv"), filepath.Join(work, "a.csv"))); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(work, "a.csv"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(file, "AC:DE:48:77:00:01,LATE1\n")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	b := n.open()
	if err := b.conclude(t.Context(), dropped{filepath.Join(work, "a.csv"), "a"}, nil); err != nil {
		t.Fatal(err)
	}
	report, err := os.ReadFile(filepath.Join(n.drop, "refused", "a.csv.problems.txt"))
	if err != nil || !bytes.Contains(report, []byte("of the 3 devices that it had then")) || bytes.Contains(report, []byte("Nothing was changed")) {
		t.Errorf("%v: the report says\n%s", err, report)
	}
	if b.worst != fault.Manifest || n.lies("work", "a") || n.lies("done", "a", "a.csv") || !n.lies("done", "a", "report", "devices.csv") {
		t.Errorf("kind %d; work/a: %v, its report: %v", b.worst, n.lies("work", "a"), n.lies("done", "a", "report", "devices.csv"))
	}
}

// TestBatchPassesOver: one manifest that cannot be taken, and what does not
// belong into the folders, keep no other manifest back.
func TestBatchPassesOver(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	for i, name := range []string{"a.csv", "b.csv", "c.csv"} {
		n.manifest(name, 1+i, 1)
	}
	work := filepath.Join(n.drop, "work")
	err := errors.Join(os.MkdirAll(filepath.Join(work, "c"), 0o700), os.Mkdir(filepath.Join(n.drop, "in", "d.csv"), 0o700),
		os.WriteFile(filepath.Join(work, "b"), nil, 0o600), os.WriteFile(filepath.Join(work, "c", "notes.txt"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	kind, log := n.batch()
	if kind != fault.Storage || !n.lies("done", "a") || !n.lies("done", "c") || !n.lies("in", "b.csv") {
		t.Errorf("kind %d:\n%s", kind, log)
	}
	if !strings.Contains(log, "manifest b.csv cannot be taken") || !strings.Contains(log, "name=d.csv") {
		t.Errorf("not said:\n%s", log)
	}
	metrics, err := os.ReadFile(n.Path("keymill.prom"))
	if err != nil || !bytes.Contains(metrics, []byte(`queue_manifests{place="waiting"} 1`)) {
		t.Errorf("%v: the metrics are\n%s", err, metrics)
	}
}
