package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	coltraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"

	"keymill/cmd/keymill/internal/process"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline/mender/sandbox"
)

// stacks are the stacks of all goroutines.
func stacks() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// TestTelemetryOff: where nothing is configured nothing of it runs, while the
// devices move; the same look finds it where it is on.
func TestTelemetryOff(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	for _, on := range []bool{false, true} {
		f := newFactory(t, 5, sandbox.Config{Seed: 4})
		if on {
			t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", newOTLPReceiver(t, nil).endpoint)
		}
		var out, errs bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		a := &app{stdio: stdio{in: strings.NewReader(""), out: &out, err: &errs}, brake: process.NewBrake(cancel), env: os.Environ()}
		looked := 0
		a.begun = func(r station.Begun) {
			line := r.Line
			looked++
			if runs := strings.Contains(stacks(), "go.opentelemetry.io"); runs != on {
				t.Errorf("with telemetry %v, its goroutines run: %v", on, runs)
			}
			if (line.Follow != nil) != on || (a.telemetry != nil) != on {
				t.Errorf("with telemetry %v, devices are followed: %v", on, line.Follow != nil)
			}
		}
		root := a.root()
		root.SetArgs(f.args("--format", "pack"))
		if err := root.ExecuteContext(ctx); err != nil || looked != 1 {
			t.Errorf("%v, looked %d times: %s", err, looked, errs.String())
		}
		cancel()
	}
}

// badCollectors are collectors that nobody should have to wait for. until is
// closed when the run has ended.
func badCollectors(until <-chan struct{}) map[string]func(http.ResponseWriter, *http.Request) bool {
	refuse := func(status int, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, err := io.WriteString(w, "you sent "+req.Header.Get("Api-Key")) // as some do
			return err == nil
		}
	}
	return map[string]func(http.ResponseWriter, *http.Request) bool{
		"401": refuse(http.StatusUnauthorized), "429": refuse(http.StatusTooManyRequests, "Retry-After", "3600"),
		"503": refuse(http.StatusServiceUnavailable), "garbage": refuse(http.StatusOK, "Content-Type", "application/x-protobuf"),
		"elsewhere": refuse(http.StatusTemporaryRedirect, "Location", "http://127.0.0.1:1/elsewhere"),
		"hanging":   func(http.ResponseWriter, *http.Request) bool { <-until; return true },
		"cut":       func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
	}
}

// TestTelemetryBadCollector: whatever the collector does, the lot comes to the
// same end; what was lost is said once, and nothing secret with it. The hanging
// one hangs until after the run's end.
func TestTelemetryBadCollector(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	whys := map[string]string{
		"401": "401 Unauthorized", "429": "429 Too Many Requests", "503": "503 Service Unavailable", "garbage": "its answer is not OTLP",
		"elsewhere": "307 Temporary Redirect", "hanging": "no answer in time", "cut": "EOF",
	}
	for name := range badCollectors(nil) {
		t.Run(name, func(t *testing.T) {
			until := make(chan struct{})
			r := newOTLPReceiver(t, badCollectors(until)[name])
			once := sync.OnceFunc(func() { close(until) })
			t.Cleanup(once)
			checkBadCollector(t, r.endpoint, whys[name])
			once()
			if len(r.spans) > 0 && name != "garbage" {
				t.Error("it took spans")
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		checkBadCollector(t, "http://"+ln.Addr().String(), "connection refused")
	})
}

func checkBadCollector(t *testing.T, endpoint, want string) {
	t.Helper()
	const secret = "only-the-collector-knows"
	f := newFactory(t, 30, sandbox.Config{Seed: 4})
	f.write("headers", func(w io.Writer) error { _, err := io.WriteString(w, "Api-Key: "+secret+"\n"); return err })
	t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", endpoint)
	t.Setenv("KEYMILL_TELEMETRY_HEADERS_FILE", f.path("headers"))
	t.Setenv("KEYMILL_TELEMETRY_SAMPLE", "1")
	t.Setenv("KEYMILL_LOG_LEVEL", "debug")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16") // less than a lot has
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
	code, _, stderr := f.call(f.args("--format", "pack")...)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	f.checkLot(30)
	if strings.Count(stderr, "the collector did not take all telemetry") != 1 || !strings.Contains(stderr, "spans_lost=") {
		t.Errorf("it does not say once what was lost: %s", stderr)
	}
	if why := stderr[strings.LastIndex(stderr, "why="):]; !strings.Contains(why, want) {
		t.Errorf("it says %s, want %s", why, want)
	}
	if strings.Contains(stderr, secret) {
		t.Errorf("it repeats the collector's header: %s", stderr)
	}
}

// TestTelemetryPartialSuccess: what a collector took and what it refused is
// counted.
func TestTelemetryPartialSuccess(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	body, err := proto.Marshal(&coltraces.ExportTraceServiceResponse{PartialSuccess: &coltraces.ExportTracePartialSuccess{
		RejectedSpans: 3, ErrorMessage: "too old",
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := newOTLPReceiver(t, func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/v1/traces" {
			return false
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, err := w.Write(body)
		return err == nil
	})
	f := newFactory(t, 2, sandbox.Config{Seed: 4})
	t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", r.endpoint)
	code, _, stderr := f.call(f.args("--format", "pack")...)
	if code != 0 || !strings.Contains(stderr, "spans_lost=3") || !strings.Contains(stderr, "refused part") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// TestTelemetryInterrupt: an interrupted run ends with 130 while the collector
// still hangs.
func TestTelemetryInterrupt(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	until := make(chan struct{})
	var asked atomic.Int64
	r := newOTLPReceiver(t, func(http.ResponseWriter, *http.Request) bool { asked.Add(1); <-until; return true })
	defer close(until)
	f := newFactory(t, 400, sandbox.Config{Faults: sandbox.Faults{Latency: 50 * time.Millisecond}})
	cmd, log := f.process(f.args("--format", "pack", "--in-flight", "4", "--workers", "16")...)
	cmd.Env = append(cmd.Env, "KEYMILL_TELEMETRY_OTLP_ENDPOINT="+r.endpoint, "KEYMILL_TELEMETRY_SAMPLE=1", "OTEL_BSP_SCHEDULE_DELAY=10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.waitForDevices(20)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitInterrupted {
		t.Errorf("%v, want exit code 130\n%s", err, log)
	}
	if asked.Load() == 0 || !strings.Contains(log.String(), "the collector did not take all telemetry") {
		t.Errorf("the collector was asked %d times:\n%s", asked.Load(), log)
	}
}

// TestTelemetryTLS: a collector's certificate is checked, and the configured CA
// is trusted.
func TestTelemetryTLS(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	r := &otlpReceiver{t: t, metrics: map[string]*metricspb.Metric{}}
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it is refused on purpose
	server.StartTLS()
	defer server.Close()
	f := newFactory(t, 2, sandbox.Config{Seed: 4})
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	code, _, stderr := f.call(f.args("--format", "pack")...)
	if code != 0 || !strings.Contains(stderr, "certificate signed by unknown authority") || len(r.raw) > 0 {
		t.Errorf("exit %d, %d requests came: %s", code, len(r.raw), stderr)
	}
	doctor := []string{"doctor", "--ledger", f.ledger, "--golden", f.path("golden.sdimg"), "--server", f.server,
		"--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt")}
	if code, out, _ := f.call(doctor...); code != exitServer || !strings.Contains(out, "certificate signed by unknown authority") {
		t.Errorf("doctor: exit %d: %s", code, out)
	}
	f.write("ca.crt", func(w io.Writer) error {
		return pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	})
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", f.path("ca.crt"))
	if code, out, stderr := f.call(doctor...); code != 0 || !strings.Contains(out, "the collector takes what it is sent") || len(r.raw) != 2 {
		t.Errorf("doctor: exit %d, %d requests: %s%s", code, len(r.raw), out, stderr)
	}
	if code, _, stderr := f.call("export", "lot", "-o", f.path("audit"), "--ledger", f.ledger); code != 0 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if r.oneTree().Name != "keymill export" {
		t.Errorf("spans: %v", r.names())
	}
}
