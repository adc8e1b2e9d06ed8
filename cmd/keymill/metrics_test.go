package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/pipeline/mender/sandbox"
)

// promtool judges metrics as Prometheus' own linter does.
func promtool(t *testing.T, metrics []byte) {
	t.Helper()
	needTools(t, "prometheus", "promtool")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = bytes.NewReader(metrics)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestBatchMetrics: the textfile is one that promtool and other users can read,
// is replaced at once, counts what the ledger counts, and is pushed as well.
func TestBatchMetrics(t *testing.T) {
	n := newNight(t, sandbox.Config{Seed: 3, Faults: sandbox.Faults{Fail: 0.1}})
	var pushed atomic.Int64 // bytes
	gateway := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodPut || !strings.HasPrefix(req.URL.Path, "/metrics/job/keymill/instance/") {
			t.Errorf("%s %s", req.Method, req.URL)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		pushed.Add(int64(len(body)))
	}))
	defer gateway.Close()
	t.Setenv("KEYMILL_METRICS_PUSHGATEWAY", gateway.URL)
	n.manifest("a.csv", 1, 40)
	n.manifest("b.csv", 100, 2)
	n.manifest("c.csv", 1, 1) // refused
	before := time.Now().Add(-time.Second)
	if code, log := n.batch(); code != exitManifest {
		t.Fatalf("exit %d:\n%s", code, log)
	}
	metrics, err := os.ReadFile(n.path("keymill.prom"))
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, metrics)
	info, err := os.Stat(n.path("keymill.prom"))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v: mode %v; node_exporter is another user", err, info.Mode())
	}
	text := string(metrics)
	for _, want := range []string{
		`keymill_devices{state="released"} 42`, `keymill_devices{state="failed"} 0`,
		`keymill_keys{fate="generated"} 42`, `keymill_keys{fate="released"} 42`, `keymill_keys{fate="held"} 0`,
		`keymill_lots{state="closed"} 2`, `keymill_lots{state="open"} 0`, `keymill_lot_devices{lot="a",state="released"} 40`,
		`keymill_stage_duration_seconds_count{stage="stage"} 42`, `keymill_stage_duration_seconds_count{stage="release"} 42`,
		`keymill_queue_manifests{place="refused"} 1`, `keymill_queue_manifests{place="waiting"} 0`,
		`keymill_batch_lots_total{outcome="closed"} 2`, `keymill_batch_lots_total{outcome="refused"} 1`,
		"keymill_batch_running 0", "keymill_batch_exit_code 3", "keymill_last_success_timestamp_seconds 0",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(text, `kind="retry"} 0`) || strings.Contains(text, `kind="sent"} 0`) {
		t.Error("with faults on, no request was repeated")
	}
	if pushed.Load() == 0 {
		t.Error("nothing was pushed")
	}
	if code, log := n.batch(); code != 0 {
		t.Fatalf("exit %d:\n%s", code, log)
	}
	f := &dropFolder{root: n.drop}
	if last := f.lastSuccess(); last.Before(before) {
		t.Errorf("the last success was at %v", last)
	}
	if metrics, err = os.ReadFile(n.path("keymill.prom")); err != nil || bytes.Contains(metrics, []byte("last_success_timestamp_seconds 0")) {
		t.Errorf("%v: the last success is not in\n%s", err, metrics)
	}
}

// TestPushRests: a Pushgateway that is away is asked for the first lot and at the
// end, not for each of the lots between.
func TestPushRests(t *testing.T) {
	asked := 0
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer gateway.Close()
	now := time.Now()
	m := newMeter(config.MetricsConfig{Pushgateway: gateway.URL}, "line-3", now)
	for _, step := range []struct {
		after time.Duration
		last  bool
		asked int
	}{{0, false, 1}, {time.Second, false, 1}, {restAfterFailure, false, 2}, {restAfterFailure + time.Second, true, 3}} {
		err := m.push(t.Context(), now.Add(step.after), step.last)
		if asked != step.asked {
			t.Errorf("after %v: %v, asked %d times, want %d", step.after, err, asked, step.asked)
		}
	}
}
