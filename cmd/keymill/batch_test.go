package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline/mender/sandbox"
)

// night is a factory with a drop folder.
type night struct {
	*factory
	drop string
}

func newNight(t *testing.T, cfg sandbox.Config) *night {
	t.Helper()
	needTools(t, "e2fsprogs", "debugfs")
	n := &night{factory: newFactory(t, 1, cfg)}
	n.drop = n.path("drop")
	if err := os.MkdirAll(filepath.Join(n.drop, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// args are those of a batch; out/ is in the factory's folder, as its processes run there.
func (n *night) args(more ...string) []string {
	return append([]string{
		"batch", n.drop, "--golden", n.path("golden.sdimg"), "--ledger", n.ledger, "--format", "pack",
		"--server", n.server, "--token-file", n.path("sb", "token"), "--ca-file", n.path("sb", "ca.crt"),
	}, more...)
}

// manifest drops a manifest of count devices, whose numbers begin with first.
func (n *night) manifest(name string, first, count int) {
	n.t.Helper()
	n.write(filepath.Join("drop", "in", name), func(w io.Writer) error {
		fmt.Fprintln(w, "mac,serial")
		for i := range count {
			fmt.Fprintf(w, "AC:DE:48:%02X:%02X:%02X,SN%06d\n", (first+i)>>16&255, (first+i)>>8&255, (first+i)&255, first+i)
		}
		return nil
	})
}

// batch runs one in a process of its own, and returns its exit code and output.
func (n *night) batch(more ...string) (int, string) {
	n.t.Helper()
	cmd, log := n.command(more...)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), log()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return 0, log()
}

// command is a batch ready to be started; the environment makes it quick.
func (n *night) command(more ...string) (cmd *exec.Cmd, log func() string) {
	cmd, buf := n.process(n.args(more...)...)
	cmd.Env = append(cmd.Env, "KEYMILL_BATCH_SETTLE=50ms", "KEYMILL_BATCH_POLL=100ms", "KEYMILL_METRICS_TEXTFILE="+n.path("keymill.prom"))
	return cmd, buf.String
}

func (n *night) lies(path ...string) bool {
	return files.Exists(filepath.Join(append([]string{n.drop}, path...)...))
}

// until polls a condition that must come true.
func (n *night) until(what string, holds func() bool) {
	n.t.Helper()
	deadline := time.NewTimer(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			n.t.Fatalf("after a minute: not %s", what)
		}
	}
}

// TestBatchLeavesLotsThatFailed: a device that conflicts keeps its lot in
// work/. Once somebody has decided, the next batch puts the lot away, and goes
// on with new manifests after that.
func TestBatchLeavesLotsThatFailed(t *testing.T) {
	n := newNight(t, sandbox.Config{Seed: 1})
	n.manifest("c.csv", 1, 1)
	other := []string{"--golden", n.path("golden.sdimg"), "--format", "pack", "--server", n.server,
		"--token-file", n.path("sb", "token"), "--ca-file", n.path("sb", "ca.crt")}
	foreign := append([]string{"run", filepath.Join(n.drop, "in", "c.csv"), "--ledger", n.path("other.db"), "--out", n.path("other")}, other...)
	if code, _, errs := n.call(foreign...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	n.manifest("c.csv", 1, 3)
	if code, log := n.batch(); code != exitDevices || !n.lies("work", "c", "c.csv") {
		t.Fatalf("exit %d, work/c/c.csv there: %v\n%s", code, n.lies("work", "c", "c.csv"), log)
	}
	n.manifest("c.csv", 50, 1) // has to wait for its namesake
	if code, log := n.batch(); code != exitDevices || !n.lies("in", "c.csv") {
		t.Fatalf("exit %d:\n%s", code, log)
	}
	if code, _, errs := n.call("retry", "c", "--ledger", n.ledger, "--on-conflict", "replace",
		"--golden", n.path("golden.sdimg"), "--format", "pack", "--server", n.server, "--token-file", n.path("sb", "token"), "--ca-file", n.path("sb", "ca.crt")); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	n.manifest("a.csv", 20, 1)
	code, log := n.batch() // the namesake is refused now: that lot is made
	if code != exitManifest || !n.lies("refused", "c.csv") {
		t.Errorf("exit %d:\n%s", code, log)
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

// TestBatchOneInstance: a second one says who holds the folder; a killed one
// holds nothing, not even through the children that it leaves behind.
func TestBatchOneInstance(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	n.write("keymill.yaml", func(w io.Writer) error {
		_, err := io.WriteString(w, "notify: {command: [sh, -c, 'exec >hook-runs 2>&1; while [ -e hook-runs ]; do sleep 0.1; done']}\n")
		return err
	})
	n.manifest("a.csv", 1, 1)
	first, log := n.command("--watch")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	n.until("in the hook", func() bool { return n.lies("hook-runs") })
	t.Cleanup(func() { os.Remove(filepath.Join(n.drop, "hook-runs")) })
	code, second := n.batch()
	if code != exitUsage || !strings.Contains(second, fmt.Sprintf("process %d on ", first.Process.Pid)) {
		t.Errorf("exit %d:\n%s", code, second)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Errorf("the first one ended well:\n%s", log())
	}
	if err := os.Remove(n.path("keymill.yaml")); err != nil {
		t.Fatal(err)
	}
	if code, third := n.batch(); code != 0 {
		t.Errorf("after a kill: exit %d:\n%s", code, third)
	}
}

// TestBatchDrains: SIGTERM ends a batch with 130 in the middle of a lot, and
// with 0 when it only watches; both leave everything to the next one.
func TestBatchDrains(t *testing.T) {
	n := newNight(t, sandbox.Config{Faults: sandbox.Faults{Latency: 30 * time.Millisecond}})
	n.manifest("a.csv", 1, 300)
	n.manifest("b.csv", 1000, 2)
	cmd, log := n.command("--in-flight", "4", "--workers", "8")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.waitForDevices(10)
	if code := n.terminate(cmd); code != exitInterrupted {
		t.Fatalf("exit %d:\n%s", code, log())
	}
	if !n.lies("work", "a", "a.csv") || !n.lies("in", "b.csv") {
		t.Errorf("the manifests are not where they belong:\n%s", log())
	}
	n.box.SetFaults(sandbox.Faults{})
	watch, log := n.command("--watch")
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	n.until("done with both lots", func() bool { return n.lies("done", "a", "a.csv") && n.lies("done", "b", "b.csv") })
	n.manifest("c.csv", 2000, 1)
	n.until("done with what came later", func() bool { return n.lies("done", "c", "c.csv") })
	n.until("idle", func() bool {
		text, err := os.ReadFile(n.path("keymill.prom"))
		return err == nil && strings.Contains(string(text), `keymill_batch_lots_total{outcome="closed"} 3`)
	})
	if code := n.terminate(watch); code != 0 {
		t.Errorf("exit %d:\n%s", code, log())
	}
}

func (n *night) terminate(cmd *exec.Cmd) int {
	n.t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return 0
}

// TestBatchSettles: what is still being written is left alone, by whatever way.
func TestBatchSettles(t *testing.T) {
	dir := t.TempDir()
	f, err := openDropFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, text string, mtime time.Time) {
		path := filepath.Join(f.in(), name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, mtime, mtime)); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	const settle = 2 * time.Second
	for _, name := range []string{"b.csv", "a.XLSX", ".c.csv.x1", "c.csv.part", "~$a.xlsx", "readme.txt"} {
		put(name, "1", begin)
	}
	if err := os.Mkdir(filepath.Join(f.in(), "folder.csv"), 0o700); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		after     time.Duration
		change    func()
		want      string
		unsettled int
	}{
		{0, nil, "", 2},
		{time.Second, nil, "", 2},
		{2 * time.Second, nil, "a.XLSX b.csv", 0},
		{3 * time.Second, func() { put("b.csv", "12", begin) }, "a.XLSX", 1}, // it grew, with an old time
		{4 * time.Second, func() { put("b.csv", "13", begin.Add(time.Hour)) }, "a.XLSX", 1},
		{5 * time.Second, nil, "a.XLSX", 1},
		{6 * time.Second, nil, "a.XLSX b.csv", 0},
		{7 * time.Second, func() { os.Remove(filepath.Join(f.in(), "a.XLSX")) }, "b.csv", 0},
	}
	for _, step := range steps {
		if step.change != nil {
			step.change()
		}
		ready, unsettled, err := f.look(begin.Add(step.after), settle)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range ready {
			names = append(names, d.name())
		}
		if got := strings.Join(names, " "); got != step.want || unsettled != step.unsettled {
			t.Errorf("after %v: ready %q, %d unsettled; want %q, %d", step.after, got, unsettled, step.want, step.unsettled)
		}
	}
}

// TestBatchFolderAgain: every move can be done again after a crash in its middle.
func TestBatchFolderAgain(t *testing.T) {
	f, err := openDropFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	report := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(report, "devices.csv"), []byte("new"), 0o600))
	must(os.MkdirAll(filepath.Join(report, "log"), 0o700))
	must(os.WriteFile(filepath.Join(report, "log", "nodes"), []byte("x"), 0o600))
	must(os.WriteFile(filepath.Join(f.in(), "a.csv"), nil, 0o600))
	d, ok, err := f.take(dropped{filepath.Join(f.in(), "a.csv"), "a"})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	must(os.WriteFile(filepath.Join(f.in(), "a.csv"), nil, 0o600))
	if _, ok, err := f.take(dropped{filepath.Join(f.in(), "a.csv"), "a"}); ok || err != nil {
		t.Errorf("a second manifest of an unfinished lot was taken: %v", err)
	}
	// A crash left half a copy, and an older report.
	must(os.MkdirAll(f.path("done", "a", ".report.part", "old"), 0o700))
	must(os.MkdirAll(f.path("done", "a", "report", "old"), 0o700))
	done, err := f.finish(d, report)
	must(err)
	for name, want := range map[string]bool{
		"a.csv": true, "report/devices.csv": true, "report/log/nodes": true, "report/old": false, ".report.part": false,
	} {
		if files.Exists(filepath.Join(done, name)) != want {
			t.Errorf("%s: there is %v", name, !want)
		}
	}
	if files.Exists(f.path("work", "a")) {
		t.Error("the lot's folder in work/ is left over")
	}
	nothing := func(io.Writer) error { return nil }
	for _, want := range []string{"b.csv", "b.2.csv", "b.3.csv"} {
		must(os.WriteFile(filepath.Join(f.in(), "b.csv"), nil, 0o600))
		moved, err := f.refuse(dropped{filepath.Join(f.in(), "b.csv"), "b"}, nothing, nothing)
		must(err)
		if moved != f.path("refused", want) || !files.Exists(moved+".problems.txt") || !files.Exists(moved+".problems.json") {
			t.Errorf("refused to %s, want %s", moved, want)
		}
	}
}

// TestBatchOutage: a server that refuses us ends the batch and leaves the rest
// of the queue where it is.
func TestBatchOutage(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	n.manifest("a.csv", 1, 1)
	n.manifest("b.csv", 5, 1)
	n.box.Revoke()
	code, log := n.batch()
	if code != exitServer || !n.lies("work", "a", "a.csv") || !n.lies("in", "b.csv") {
		t.Errorf("exit %d:\n%s", code, log)
	}
	if err := n.box.WriteFiles(n.path("sb")); err != nil {
		t.Fatal(err)
	}
	cmd, errs := n.command("--json")
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, errs())
	}
	var outcomes []string
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var r lotResult
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		outcomes = append(outcomes, fmt.Sprintf("%s %s %d", r.Lot, r.Outcome, r.Totals.Released))
	}
	if got := strings.Join(outcomes, ", "); got != "a closed 1, b closed 1" {
		t.Errorf("the JSON says: %s", got)
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
	n.write(filepath.Join("drop", "in", "a.csv"), func(w io.Writer) error {
		_, err := io.WriteString(w, "mac,serial\n"+strings.Repeat("none,x\n", rows))
		return err
	})
	code, log := n.batch()
	if code != exitManifest || strings.Count(log, "\n") > 20*station.FewWarnings {
		t.Errorf("exit %d, %d lines", code, strings.Count(log, "\n"))
	}
	text, err := os.ReadFile(filepath.Join(n.drop, "refused", "a.csv.problems.json"))
	var report refusal
	if err != nil || json.Unmarshal(text, &report) != nil || len(report.Problems) != mostReported || report.More < 500 {
		t.Errorf("%v: %d problems, %d more", err, len(report.Problems), report.More)
	}
}
