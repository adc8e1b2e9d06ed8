package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"keymill/imaging"
	"keymill/pipeline/mender/sandbox"
)

// TestFullGolden: a golden image whose partition has no room is refused before
// there is a lot, so that the same command works with one that has.
func TestFullGolden(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	const devices = 3
	f := newFactory(t, devices, sandbox.Config{})
	good, err := os.ReadFile(f.path("golden.sdimg"))
	if err != nil {
		t.Fatal(err)
	}
	fillData(t, f.path("golden.sdimg"))
	for _, args := range [][]string{f.args("--format", "pack"), f.args("--format", "pack", "--dry-run")} {
		code, _, errs := f.call(args...)
		if code != exitStorage || !strings.Contains(errs, "no room left") || !strings.Contains(errs, "hint: Make room") {
			t.Errorf("exit %d: %s", code, errs)
		}
	}
	if n := countDevices(f.box); n != 0 {
		t.Errorf("the server has %d devices", n)
	}
	if err := os.WriteFile(f.path("golden.sdimg"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	f.checkLot(devices)
}

// fillData takes every block of a golden image's data partition.
func fillData(t *testing.T, path string) {
	t.Helper()
	golden, err := imaging.OpenGolden(t.Context(), path, imaging.GoldenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	data, err := golden.Data()
	if err != nil {
		t.Fatal(err)
	}
	large, small := t.TempDir()+"/large", t.TempDir()+"/small"
	for name, size := range map[string]int{large: 1 << 20, small: 1 << 10} {
		if err := os.WriteFile(name, []byte(strings.Repeat("z", size)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var commands strings.Builder
	for i := range 40 {
		fmt.Fprintf(&commands, "write %s large%d\n", large, i)
	}
	for i := range 2000 {
		fmt.Fprintf(&commands, "write %s small%d\n", small, i)
	}
	cmd := exec.Command("debugfs", "-w", "-f", "-", fmt.Sprintf("%s?offset=%d", path, data.Offset))
	cmd.Stdin = strings.NewReader(commands.String())
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), "Could not allocate block") {
		t.Fatalf("it is not full:\n%.2000s", out)
	}
}
