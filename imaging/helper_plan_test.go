package imaging

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// missing skips a test for what this machine lacks, and fails it in CI.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// need skips a test whose tool is missing, except in CI.
func need(t testing.TB, pkg string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := lookTool(name, pkg); err == nil {
			continue
		}
		missing(t, "%s is missing: install the Debian package %s", name, pkg)
	}
}

// tool runs a program and returns what it prints; it must succeed.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := lookTool(name, name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

var planTime = time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC)

const agentPath = "/data/mender/mender-agent.pem"

// sample makes a golden image and opens it.
func sample(t testing.TB, opt SampleOptions) *Golden {
	t.Helper()
	need(t, e2fsprogs, "mke2fs", "debugfs", "e2fsck")
	name := filepath.Join(t.TempDir(), "golden.sdimg")
	if err := Sample(t.Context(), name, opt); err != nil {
		t.Fatal(err)
	}
	return openTest(t, name, GoldenOptions{})
}

func openTest(t testing.TB, name string, opt GoldenOptions) *Golden {
	t.Helper()
	g, err := OpenGolden(t.Context(), name, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func planTest(t testing.TB, g *Golden, targets ...Target) *Plan {
	t.Helper()
	p, err := NewPlan(t.Context(), g, targets, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// produce writes the device's image into a file of its own.
func produce(t testing.TB, g *Golden, o *Overlay) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "device.sdimg")
	if err := copyPart(context.Background(), g.Path(), name, 0, g.Size()); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, e := range o.Extents() {
		if _, err := file.WriteAt(e.Data, e.Offset); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// judged is a file that must be in a produced image.
type judged struct {
	path    string // in the partition
	content []byte
	mode    string // as debugfs prints it
}

// judge has e2fsck and debugfs look at a partition of a produced image.
func judge(t testing.TB, image string, p *Partition, files ...judged) {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "partition")
	if err := copyPart(context.Background(), image, name, p.Offset, p.Bytes); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(name)
	tool(t, "e2fsck", "-fn", name)
	commands := ""
	for i, f := range files {
		commands += fmt.Sprintf("dump %q %s/%d\nstat %q\n", f.path, dir, i, f.path)
	}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	stats := strings.Split(tool(t, "debugfs", "-f", script, name), "stat \"")
	for i, f := range files {
		got, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := bytes.CutPrefix(got, f.content); ok && len(got) <= 60 && allZero(rest) {
			got = f.content // debugfs shows all of i_block for inline content
		}
		if !bytes.Equal(got, f.content) {
			t.Errorf("debugfs reads %d bytes from %s that are not the %d injected", len(got), f.path, len(f.content))
		}
		if !strings.Contains(stats[i+1], "Mode:  "+f.mode) {
			t.Errorf("%s: mode is not %s:\n%s", f.path, f.mode, stats[i+1])
		}
	}
}
