package dropfolder

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/notify"
	"keymill/cmd/keymill/internal/trial"
	"keymill/pipeline/mender/sandbox"
)

// receiver is a webhook's receiver, which refuses a few calls first.
type receiver struct {
	t *testing.T

	mu     sync.Mutex
	refuse int                   // guarded by mu
	taken  []notify.Notification // guarded by mu
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse > 0 {
		r.refuse--
		w.WriteHeader(http.StatusForbidden)
		return
	}
	var n notify.Notification
	if err := json.NewDecoder(req.Body).Decode(&n); err != nil {
		r.t.Error(err)
	}
	r.taken = append(r.taken, n)
}

// TestBatchTells: one notification each for a closed lot and a refused
// manifest; a receiver that was away gets its own with the next batch.
func TestBatchTells(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	r := &receiver{t: t, refuse: 3} // after a, and both at the end
	server := httptest.NewServer(r)
	defer server.Close()
	t.Setenv("KEYMILL_NOTIFY_URL", server.URL)
	t.Setenv("KEYMILL_WEBHOOK_SECRET", "shared")
	n.manifest("a.csv", 1, 3)
	n.manifest("b.csv", 2, 1) // a's
	if kind, log := n.batch(); kind != fault.Manifest {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	text, err := os.ReadFile(filepath.Join(n.drop, "refused", "b.csv.problems.txt"))
	if err != nil || !strings.Contains(string(text), "lot a, row 3") {
		t.Errorf("%v: the report says\n%s", err, text)
	}
	r.mu.Lock()
	if len(r.taken) > 0 {
		t.Errorf("taken: %v", r.taken)
	}
	r.refuse = 0
	r.mu.Unlock()
	if kind, log := n.batch(); kind != fault.None {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var told []string
	for _, n := range r.taken {
		switch n.Event {
		case notify.LotClosed:
			told = append(told, fmt.Sprintf("%s %s %d", n.Event, n.Lot, n.Totals.Released))
		case notify.LotRefused:
			told = append(told, fmt.Sprintf("%s %s %d", n.Event, n.Lot, n.Problems))
			if !files.Exists(n.Moved) || filepath.Base(n.Moved) != "b.csv" {
				t.Errorf("the refused manifest is said to lie in %s", n.Moved)
			}
		}
	}
	if !slices.Equal(told, []string{"lot-closed a 3", "lot-refused b 1"}) {
		t.Errorf("told: %q", told)
	}
}

// TestBatchPutsAwayAgain: a crash after a lot was closed, and before its
// manifest was put away, makes the next batch tell it again, under the same ID.
func TestBatchPutsAwayAgain(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	r := &receiver{t: t}
	server := httptest.NewServer(r)
	defer server.Close()
	t.Setenv("KEYMILL_NOTIFY_URL", server.URL)
	t.Setenv("KEYMILL_WEBHOOK_SECRET", "shared")
	n.manifest("a.csv", 1, 2)
	for range 2 {
		if kind, log := n.batch(); kind != fault.None || !n.lies("done", "a", "a.csv") || n.lies("work", "a") {
			t.Fatalf("kind %d:\n%s", kind, log)
		}
		if err := os.Mkdir(filepath.Join(n.drop, "work", "a"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(n.drop, "done", "a", "a.csv"), filepath.Join(n.drop, "work", "a", "a.csv")); err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.taken) != 2 || r.taken[0].ID != r.taken[1].ID || !r.taken[0].Time.Equal(r.taken[1].Time) {
		t.Errorf("told: %+v", r.taken)
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
	if kind, log := n.batch(); kind != fault.Manifest {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	metrics, err := os.ReadFile(n.Path("keymill.prom"))
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, metrics)
	info, err := os.Stat(n.Path("keymill.prom"))
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
	if kind, log := n.batch(); kind != fault.None {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	folder := &dropFolder{root: n.drop}
	if last := folder.lastSuccess(); last.Before(before) {
		t.Errorf("the last success was at %v", last)
	}
	if metrics, err = os.ReadFile(n.Path("keymill.prom")); err != nil || bytes.Contains(metrics, []byte("last_success_timestamp_seconds 0")) {
		t.Errorf("%v: the last success is not in\n%s", err, metrics)
	}
}

// promtool judges metrics as Prometheus' own linter does.
func promtool(t *testing.T, metrics []byte) {
	t.Helper()
	trial.NeedTools(t, "prometheus", "promtool")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = bytes.NewReader(metrics)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
