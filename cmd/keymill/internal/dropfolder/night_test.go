package dropfolder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/pipeline/mender/sandbox"
)

// night is a trial with a drop folder. Products lie in its out/, as the test's
// working folder is the trial's.
type night struct {
	*trial.Trial
	t       *testing.T
	drop    string
	drain   chan struct{}
	results []Result // of the last batch
}

func newNight(t *testing.T, cfg sandbox.Config) *night {
	t.Helper()
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	n := &night{Trial: trial.New(t, 1, cfg), t: t, drain: make(chan struct{})}
	n.drop = n.Path("drop")
	t.Chdir(n.Dir)
	if err := os.MkdirAll(filepath.Join(n.drop, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// manifest drops a manifest of count devices, whose numbers begin with first.
func (n *night) manifest(name string, first, count int) {
	n.t.Helper()
	n.Manifest(filepath.Join("drop", "in", name), first, count)
}

// journal is a log that may be read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// options are quick ones; what people see goes to log.
func (n *night) options(log io.Writer) Options {
	n.t.Helper()
	settings := n.Settings(map[string]any{"out": nil, "image.format": "pack", "log.level": "info"})
	settings.Env = append(settings.Env, "KEYMILL_BATCH_SETTLE=50ms", "KEYMILL_BATCH_POLL=100ms", "KEYMILL_METRICS_TEXTFILE="+n.Path("keymill.prom"))
	cfg, err := settings.For(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return Options{
		Dir: n.drop, Config: cfg, Log: logs.New(config.LogConfig{Format: "text", Level: "info"}, log), HookOut: log, Verb: "batch",
		Station: station.Options{Settings: settings, Drain: func() <-chan struct{} { return n.drain }, Hooks: station.Hooks{LogTo: log}},
		Begins:  func(manifest string) { fmt.Fprintln(log, "==", manifest) },
		Settled: func(_ station.Outcome, err error) error { return err },
		Fault: func(err error) {
			if !errors.Is(err, context.Canceled) {
				fmt.Fprintln(log, err)
			}
		},
		Ended: func(r Result) error { n.results = append(n.results, r); return nil },
	}
}

// batch runs one, and returns how it ended and what people saw.
func (n *night) batch() (fault.Kind, string) {
	n.t.Helper()
	n.results = nil
	log := &journal{}
	kind, err := Run(n.t.Context(), n.options(log))
	if err != nil {
		fmt.Fprintln(log, err)
	}
	return kind, log.String()
}

// open returns a batch that does nothing by itself.
func (n *night) open() *batch {
	n.t.Helper()
	b, held, err := openBatch(n.t.Context(), n.options(io.Discard))
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

func (n *night) lies(path ...string) bool {
	return files.Exists(filepath.Join(append([]string{n.drop}, path...)...))
}

// until polls a condition that must come true.
func (n *night) until(what string, holds func() bool) {
	n.t.Helper()
	deadline, tick := time.NewTimer(5*time.Minute), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			n.t.Fatalf("after five minutes: not %s", what)
		}
	}
}
