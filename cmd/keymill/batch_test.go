package main

import (
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

	"keymill/cmd/keymill/internal/files"
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
