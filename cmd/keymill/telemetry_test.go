package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// TestTelemetry: a lot with faults is one tree of spans, in which a device that
// conflicts has its error; the figures are the ledger's; nothing secret is sent.
func TestTelemetry(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	const secret = "Bearer only-the-collector-knows"
	r := newOTLPReceiver(t, nil)
	f := newFactory(t, 60, sandbox.Config{Seed: 4, Faults: sandbox.Faults{Fail: 0.1, Reset: 0.05}})
	f.write("headers", func(w io.Writer) error {
		_, err := io.WriteString(w, "# the collector's\nAuthorization: "+secret+"\n")
		return err
	})
	conflicting := f.conflict(5)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.endpoint)
	t.Setenv("KEYMILL_TELEMETRY_HEADERS_FILE", f.path("headers"))
	t.Setenv("KEYMILL_TELEMETRY_SAMPLE", "1")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=hall-2")
	code, _, stderr := f.call(f.args("--format", "pack")...)
	if code != exitDevices {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if strings.Contains(stderr, "collector") {
		t.Errorf("it complains: %s", stderr)
	}
	root := r.oneTree()
	if root.Name != "keymill run" || root.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || texts(root.Attributes)["keymill.exit_code"] != "4" {
		t.Errorf("the root is %v", root)
	}
	names := r.names()
	for name, want := range map[string]int{"device": 60, "stage": 60, "preauthorize": 60, "release": 55, "carry": 1, "plan": 1, "golden": 1, "report": 1} {
		if names[name] != want {
			t.Errorf("%d spans %s, want %d", names[name], name, want)
		}
	}
	if names["POST"] <= 60 {
		t.Errorf("%d POST requests; with faults there must be repetitions", names["POST"])
	}
	f.checkDeviceSpans(r, conflicting)
	checkRequestSpans(t, r)
	f.checkFigures(r)
	token, err := os.ReadFile(f.path("sb", "token"))
	if err != nil {
		t.Fatal(err)
	}
	r.secretFree(append(f.keyPieces(), strings.TrimSpace(string(token)), secret)...)
	for _, h := range r.headers {
		if h.Get("Authorization") != secret {
			t.Errorf("the collector's header is %q", h.Get("Authorization"))
		}
	}
	about := texts(r.resources[0].Attributes)
	if about["service.name"] != "keymill" || about["service.instance.id"] == "" || about["deployment.environment.name"] != "hall-2" {
		t.Errorf("the resource is %v", about)
	}
}

// conflict makes the server hold another key for every n-th device, and
// returns their names.
func (f *factory) conflict(n int) map[string]bool {
	f.t.Helper()
	args := f.args("--format", "pack")
	args[slices.Index(args, "--lot")+1] = "other"
	args[slices.Index(args, "--ledger")+1] = f.path("other.db")
	args[slices.Index(args, "--out")+1] = f.path("other")
	names := map[string]bool{}
	text, err := os.ReadFile(f.path("manifest.csv"))
	if err != nil {
		f.t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	some := lines[:1]
	for _, line := range lines[1 : 1+n] {
		some = append(some, line)
		names[line] = true
	}
	f.write("some.csv", func(w io.Writer) error { _, err := io.WriteString(w, strings.Join(some, "")); return err })
	args[1] = f.path("some.csv")
	if code, _, stderr := f.call(args...); code != 0 {
		f.t.Fatalf("exit %d: %s", code, stderr)
	}
	return names
}

// checkDeviceSpans compares the devices' spans with the ledger.
func (f *factory) checkDeviceSpans(r *otlpReceiver, conflicting map[string]bool) {
	f.t.Helper()
	byName := map[string]*tracepb.Span{}
	for _, s := range r.named("device") {
		byName[texts(s.Attributes)["keymill.device"]] = s
	}
	errors := 0
	for _, rec := range f.records() {
		span := byName[rec.Identity.Name()]
		if span == nil {
			f.t.Errorf("%s has no span", rec.Identity.Name())
			continue
		}
		attrs, bad := texts(span.Attributes), span.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR
		if attrs["keymill.outcome"] != string(rec.State) || attrs["keymill.row"] != itoa(int64(rec.Row)) {
			f.t.Errorf("%s is %s, its span says %v", rec.Identity.Name(), rec.State, attrs)
		}
		if want := rec.State != pipeline.Released; bad != want || want && span.Status.Message != rec.Reason {
			f.t.Errorf("%s is %s (%s), its span's status %v", rec.Identity.Name(), rec.State, rec.Reason, span.Status)
		}
		if bad {
			errors++
		}
	}
	if errors != len(conflicting) {
		f.t.Errorf("%d devices with errors, want %d", errors, len(conflicting))
	}
}

// checkRequestSpans looks at what the conventions want of requests, and at the
// number of each try.
func checkRequestSpans(t *testing.T, r *otlpReceiver) {
	t.Helper()
	resent, refused := 0, 0
	for _, s := range r.named("POST") {
		attrs := texts(s.Attributes)
		if attrs["http.request.method"] != "POST" || attrs["server.address"] != "127.0.0.1" || attrs["server.port"] == "" ||
			!strings.HasPrefix(attrs["url.full"], "https://127.0.0.1:") || s.Kind != tracepb.Span_SPAN_KIND_CLIENT {
			t.Fatalf("a request's span: %v", s)
		}
		if attrs["http.request.resend_count"] != "" {
			resent++
		}
		status := attrs["http.response.status_code"]
		if bad := s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; bad != (status != "201" && status != "200") || bad && attrs["error.type"] == "" {
			t.Errorf("status %q, the span says %v %v", status, s.Status, attrs)
		}
		if status == "500" {
			refused++
		}
	}
	if resent == 0 || refused == 0 {
		t.Errorf("%d requests were sent again, %d were refused; faults are on", resent, refused)
	}
}

// checkFigures compares the metrics with the ledger, to the device.
func (f *factory) checkFigures(r *otlpReceiver) {
	f.t.Helper()
	count := map[pipeline.State]int{}
	for _, rec := range f.records() {
		count[rec.State]++
	}
	for _, state := range pipeline.States {
		for name, attrs := range map[string]map[string]string{
			"keymill.devices": {"state": string(state)}, "keymill.lot.devices": {"state": string(state), "lot": "lot"},
		} {
			if got := r.value(name, attrs); got != float64(count[state]) {
				f.t.Errorf("%s of %s is %v, the ledger has %d", name, state, got, count[state])
			}
		}
	}
	if got := r.value("keymill.keys", map[string]string{"fate": "generated"}); got != 60 {
		f.t.Errorf("keymill.keys generated is %v", got)
	}
	if got := r.value("keymill.server.requests", map[string]string{"kind": "retry"}); got == 0 {
		f.t.Error("no retries, with faults on")
	}
	stage := r.metrics["keymill.stage.duration"]
	if stage.GetUnit() != "s" || stage.GetHistogram() == nil || r.metrics["keymill.devices"].GetUnit() != "{device}" {
		f.t.Errorf("keymill.stage.duration is %v", stage)
	}
	for _, p := range stage.GetHistogram().GetDataPoints() {
		want := map[string]int{"stage": 60, "preauthorize": count[pipeline.Released], "release": count[pipeline.Released]}[texts(p.Attributes)["stage"]]
		if int(p.Count) != want {
			f.t.Errorf("%d durations of %v, want %d", p.Count, texts(p.Attributes), want)
		}
	}
	for name := range r.metrics {
		if strings.HasPrefix(name, "keymill.batch") || strings.Contains(name, "_") && !strings.HasSuffix(name, "_flight") && !strings.HasSuffix(name, "_closed") {
			f.t.Errorf("a run has no metric %s", name)
		}
	}
}

// keyPieces are pieces of each device's private key, as text and as bytes.
func (f *factory) keyPieces() []string {
	f.t.Helper()
	pack, err := os.ReadFile(f.path("out", "lot.pack"))
	if err != nil {
		f.t.Fatal(err)
	}
	var pieces []string
	for rest := pack; ; {
		_, after, found := bytes.Cut(rest, []byte("-----BEGIN PRIVATE KEY-----\n"))
		if !found {
			break
		}
		pieces = append(pieces, string(after[30:54])) // past what all keys begin with
		rest = after
	}
	if len(pieces) < 60 {
		f.t.Fatalf("%d keys in the pack", len(pieces))
	}
	return pieces
}

// TestTelemetryShare: of devices that are in order only the share is sent, of
// those that are not each one with its steps and requests.
func TestTelemetryShare(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	r := newOTLPReceiver(t, nil)
	f := newFactory(t, 40, sandbox.Config{Seed: 4})
	conflicting := f.conflict(3)
	t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", r.endpoint)
	t.Setenv("KEYMILL_TELEMETRY_SAMPLE", "0")
	if code, _, stderr := f.call(f.args("--format", "pack")...); code != exitDevices {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	r.oneTree()
	names := r.names()
	for name, want := range map[string]int{"device": len(conflicting), "stage": len(conflicting), "preauthorize": len(conflicting), "release": 0, "carry": 1} {
		if names[name] != want {
			t.Errorf("%d spans %s, want %d", names[name], name, want)
		}
	}
	if names["POST"] != len(conflicting) || names["GET"] != len(conflicting) {
		t.Errorf("requests: %v", names)
	}
	for _, s := range r.named("device") {
		if s.Flags&1 != 1 || texts(s.Attributes)["error.type"] != "conflict" {
			t.Errorf("a conflict's span: %v", s)
		}
	}
	again := newOTLPReceiver(t, nil)
	t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", again.endpoint)
	retry := []string{"retry", "lot", "--on-conflict", "replace", "--ledger", f.ledger, "--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt")}
	if code, _, stderr := f.call(retry...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if again.oneTree().Name != "keymill retry" {
		t.Errorf("spans of the retry: %v", again.names())
	}
	for name, want := range map[string]int{"device": 0, "POST": 0, "golden": 1, "recover": 1, "carry": 1, "verify": 1, "report": 1} {
		if got := again.names()[name]; got != want {
			t.Errorf("%d spans %s of the retry, want %d", got, name, want)
		}
	}
}

// TestTelemetryOutage: what stops a lot is said in the root and in no detail
// that is secret.
func TestTelemetryOutage(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	const pin = "s3cret-wrong-pin"
	r := newOTLPReceiver(t, nil)
	f := newFactory(t, 2, sandbox.Config{Seed: 4})
	t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", r.endpoint)
	t.Setenv("KEYMILL_TELEMETRY_SAMPLE", "1")
	uri, _, _ := strings.Cut(f.token(t), "&pin-source=")
	t.Setenv("KEYMILL_KEYS_HSM", uri+"&pin-value="+pin)
	code, _, stderr := f.call(f.args("--format", "pack", "--keys", "hsm", "--algorithm", "ecdsa-p256")...)
	if code != exitHSM {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	root := r.oneTree()
	if root.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || root.Status.Message == "" || texts(root.Attributes)["error.type"] != "exit_6" {
		t.Errorf("the root is %v", root)
	}
	r.secretFree(pin)
}

// TestTelemetryVerbs: verify, undo, export and retry have traces of their own.
func TestTelemetryVerbs(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	f := newFactory(t, 5, sandbox.Config{Seed: 4})
	if code, _, stderr := f.call(f.args("--format", "pack")...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	server := []string{"--ledger", f.ledger, "--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt")}
	t.Setenv("KEYMILL_TELEMETRY_SAMPLE", "1")
	for _, args := range [][]string{
		append([]string{"verify", "lot"}, server...), append([]string{"retry", "lot"}, server...),
		{"export", "lot", "-o", f.path("audit"), "--ledger", f.ledger}, append([]string{"undo", "lot", "--yes"}, server...),
	} {
		r := newOTLPReceiver(t, nil)
		t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", r.endpoint)
		if code, _, stderr := f.call(args...); code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		root := r.oneTree()
		if root.Name != "keymill "+args[0] || texts(root.Attributes)["keymill.lot"] != "lot" || root.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
			t.Errorf("%s: the root is %v", args[0], root)
		}
		if args[0] == "undo" && (r.names()["DELETE"] != 5 || r.value("keymill.devices", map[string]string{"state": "undone"}) != 5) {
			t.Errorf("undo: %v", r.names())
		}
	}
}

// TestTelemetryGRPC: the same by the other protocol.
func TestTelemetryGRPC(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &otlpReceiver{t: t, metrics: map[string]*metricspb.Metric{}}
	server := grpc.NewServer()
	coltraces.RegisterTraceServiceServer(server, grpcTraces{r: r})
	colmetrics.RegisterMetricsServiceServer(server, grpcMetrics{r: r})
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	f := newFactory(t, 4, sandbox.Config{Seed: 4})
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+ln.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	if code, _, stderr := f.call(f.args("--format", "pack")...); code != 0 || strings.Contains(stderr, "collector") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	r.oneTree()
	if got := r.value("keymill.devices", map[string]string{"state": "released"}); got != 4 {
		t.Errorf("%v devices released", got)
	}
}
