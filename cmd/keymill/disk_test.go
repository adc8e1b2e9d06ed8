package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"keymill/pipeline/mender/sandbox"
)

// smallDisk mounts a tmpfs of so many bytes at the factory's folder name.
func (f *factory) smallDisk(t *testing.T, name, size string) {
	t.Helper()
	needRoot(t, "it mounts a small tmpfs")
	if err := os.MkdirAll(f.path(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0700,size="+size, "tmpfs", f.path(name)).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", f.path(name)).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
}

// TestTooLittleDisk: a lot that will not fit is refused before anything is
// made, and the error names the format that fits.
func TestTooLittleDisk(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	f := newFactory(t, 30, sandbox.Config{})
	f.smallDisk(t, "out", "4m")
	code, _, errs := f.call(f.args("--format", "raw")...)
	if code != exitStorage || !strings.Contains(errs, "--format pack") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if _, err := os.Stat(f.path("keymill.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a ledger was made for a lot that was refused")
	}
	if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
		t.Errorf("the format that the error names: exit %d: %s", code, errs)
	}
}

// TestDiskFills fills the disk of the ledger, and then that of the products, in
// the middle of a lot: the run stops with code 7 and a hint, and when there is
// room again the same command ends it, nothing lost.
func TestDiskFills(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	for _, format := range []string{"raw", "pack"} {
		for _, full := range []string{"out", "db"} {
			t.Run(format+" "+full, func(t *testing.T) { testDiskFills(t, format, full) })
		}
	}
}

func testDiskFills(t *testing.T, format, full string) {
	const devices = 150
	f := newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond}})
	f.smallDisk(t, full, "200m")
	f.ledger = f.path("db", "keymill.db")
	args := f.args("--format", format, "--in-flight", "2", "--workers", "8")
	if err := os.MkdirAll(f.path("db"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd, log := f.process(args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.waitForDevices(20)
	fill(t, f.path(full, "ballast"))
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitStorage {
		t.Fatalf("on a full disk: %v, want exit code %d\n%s", err, exitStorage, log)
	}
	if !strings.Contains(log.String(), "no space left") && !strings.Contains(log.String(), "full") || !strings.Contains(log.String(), "hint: ") {
		t.Errorf("the message does not say that the disk is full, or not what to do:\n%s", log)
	}
	if err := os.Remove(f.path(full, "ballast")); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := f.call(args...); code != 0 {
		t.Fatalf("with room again: exit %d: %s", code, errs)
	}
	f.checkLot(devices)
	f.checkBooks(devices, format)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := 1 << 20; chunk > 0; {
		if _, err := file.Write(make([]byte, chunk)); err != nil {
			chunk /= 2
		}
	}
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
}
