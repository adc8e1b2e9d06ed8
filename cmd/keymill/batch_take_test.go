package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline/mender/sandbox"
)

// TestBatchStillOpen: a copy that stalls looks settled, but somebody has it open.
func TestBatchStillOpen(t *testing.T) {
	f, err := openDropFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	writer, err := os.Create(filepath.Join(f.in(), "a.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	look := func(now time.Time) (ready, unsettled int) {
		t.Helper()
		list, unsettled, err := f.look(now, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(list), unsettled
	}
	now := time.Now()
	if ready, unsettled := look(now); ready != 0 || unsettled != 1 {
		t.Errorf("open for writing: %d ready, %d unsettled", ready, unsettled)
	}
	if ready, _ := look(now.Add(writerPatience)); ready != 1 {
		t.Errorf("open, but old: %d ready", ready)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if ready, unsettled := look(now); ready != 1 || unsettled != 0 {
		t.Errorf("closed: %d ready, %d unsettled", ready, unsettled)
	}
}

// open returns a batch in this process.
func (n *night) open() *batch {
	n.t.Helper()
	a := &app{stdio: stdio{in: strings.NewReader(""), out: io.Discard, err: io.Discard}, brake: newBrake(func() {}), env: os.Environ()}
	cmd := a.batchCmd()
	cmd.SetContext(n.t.Context())
	if err := cmd.ParseFlags(n.args()[2:]); err != nil {
		n.t.Fatal(err)
	}
	o, err := a.batchOptions(cmd, n.drop, false)
	if err != nil {
		n.t.Fatal(err)
	}
	b, held, err := openBatch(n.t.Context(), o)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := held.Close(); err != nil {
			n.t.Error(err)
		}
	})
	return b
}

// TestBatchTellsOnce: a lot that fails again in the same way is not told again.
func TestBatchTellsOnce(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	t.Setenv("KEYMILL_NOTIFY_COMMAND", "false")
	b := n.open()
	d := dropped{filepath.Join(n.drop, "work", "a", "a.csv"), "a"}
	for i, step := range []struct{ code, told int }{{exitDevices, 1}, {exitDevices, 1}, {exitServer, 2}, {exitDevices, 3}} {
		b.outbox.restUntil = time.Now().Add(time.Hour)
		if err := b.settle(t.Context(), d, &lotResult{Lot: "a", Outcome: outcomeFailed, ExitCode: step.code, Error: strings.Repeat("x", i)}); err != nil {
			t.Fatal(err)
		}
		if got := b.outbox.count(); got != step.told {
			t.Errorf("after failure %d: %d are told, want %d", i, got, step.told)
		}
	}
}

// TestBatchLateRows: a manifest that grew while its lot was made is not put away
// as if all of it had been.
func TestBatchLateRows(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	n.manifest("a.csv", 1, 3)
	if code, log := n.batch(); code != 0 {
		t.Fatalf("exit %d:\n%s", code, log)
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
	if b.worst.ExitCode() != exitManifest || n.lies("work", "a") || n.lies("done", "a", "a.csv") || !n.lies("done", "a", "report", "devices.csv") {
		t.Errorf("code %d; work/a: %v, its report: %v", b.worst, n.lies("work", "a"), n.lies("done", "a", "report", "devices.csv"))
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
	code, log := n.batch()
	if code != exitStorage || !n.lies("done", "a") || !n.lies("done", "c") || !n.lies("in", "b.csv") {
		t.Errorf("exit %d:\n%s", code, log)
	}
	if !strings.Contains(log, "manifest b.csv cannot be taken") || !strings.Contains(log, "name=d.csv") {
		t.Errorf("not said:\n%s", log)
	}
	metrics, err := os.ReadFile(n.path("keymill.prom"))
	if err != nil || !bytes.Contains(metrics, []byte(`queue_manifests{place="waiting"} 1`)) {
		t.Errorf("%v: the metrics are\n%s", err, metrics)
	}
}

// TestMoveAcross: in/ may be a share, and so another file system than work/.
func TestMoveAcross(t *testing.T) {
	there, err := os.MkdirTemp("/dev/shm", "keymill")
	if err != nil {
		lacking(t, "there is no second file system: %v", err)
	}
	defer os.RemoveAll(there)
	from, to := filepath.Join(there, "a.csv"), filepath.Join(t.TempDir(), "a.csv")
	if err := os.WriteFile(from, []byte("mac\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(from, to); !errors.Is(err, syscall.EXDEV) {
		lacking(t, "/dev/shm is no other file system: %v", err)
	}
	if err := files.Move(from, to); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(to); err != nil || string(text) != "mac\n" || files.Exists(from) {
		t.Errorf("%v: %q came; the old one is there: %v", err, text, files.Exists(from))
	}
}
