package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// otlpReceiver is an OTLP collector in this process, which keeps what it is sent.
type otlpReceiver struct {
	t        *testing.T
	endpoint string
	answer   func(http.ResponseWriter, *http.Request) bool // reports whether it has answered; nil takes everything

	mu        sync.Mutex
	raw       [][]byte // guarded by mu; as it came
	headers   []http.Header
	resources []*resourcepb.Resource
	spans     []*tracepb.Span
	metrics   map[string]*metricspb.Metric // the newest
}

func newOTLPReceiver(t *testing.T, answer func(http.ResponseWriter, *http.Request) bool) *otlpReceiver {
	r := &otlpReceiver{t: t, answer: answer, metrics: map[string]*metricspb.Metric{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.endpoint = server.URL
	return r
}

func (r *otlpReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // whoever sent it was ended
	}
	if r.answer != nil && r.answer(w, req) {
		return
	}
	r.mu.Lock()
	r.raw, r.headers = append(r.raw, body), append(r.headers, req.Header.Clone())
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
	switch req.URL.Path {
	case "/v1/traces":
		var got coltraces.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &got); err != nil {
			r.t.Error(err)
		}
		r.takeSpans(&got)
	case "/v1/metrics":
		var got colmetrics.ExportMetricsServiceRequest
		if err := proto.Unmarshal(body, &got); err != nil {
			r.t.Error(err)
		}
		r.takeMetrics(&got)
	default:
		r.t.Errorf("a request to %s", req.URL.Path)
	}
}

func (r *otlpReceiver) takeSpans(got *coltraces.ExportTraceServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range got.ResourceSpans {
		r.resources = append(r.resources, rs.Resource)
		for _, scope := range rs.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
}

func (r *otlpReceiver) takeMetrics(got *colmetrics.ExportMetricsServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rm := range got.ResourceMetrics {
		r.resources = append(r.resources, rm.Resource)
		for _, scope := range rm.ScopeMetrics {
			for _, m := range scope.Metrics {
				r.metrics[m.Name] = m
			}
		}
	}
}

func (r *otlpReceiver) named(name string) []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.spans), func(s *tracepb.Span) bool { return s.Name != name })
}

// names counts spans by name.
func (r *otlpReceiver) names() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[string]int{}
	for _, s := range r.spans {
		count[s.Name]++
	}
	return count
}

// value is the newest value of a metric's point with these attributes.
func (r *otlpReceiver) value(name string, attrs map[string]string) float64 {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.metrics[name]
	points := m.GetGauge().GetDataPoints()
	if m.GetSum() != nil {
		points = m.GetSum().DataPoints
	}
	for _, p := range points {
		if maps.Equal(texts(p.Attributes), attrs) {
			return p.GetAsDouble()
		}
	}
	r.t.Errorf("no metric %s%v", name, attrs)
	return -1
}

func texts(attrs []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range attrs {
		if _, isInt := kv.Value.Value.(*commonpb.AnyValue_IntValue); isInt {
			m[kv.Key] = itoa(kv.Value.GetIntValue())
			continue
		}
		m[kv.Key] = kv.Value.GetStringValue()
	}
	return m
}

// oneTree fails unless the spans are one tree, and returns its root.
func (r *otlpReceiver) oneTree() *tracepb.Span {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	byID := map[string]*tracepb.Span{}
	for _, s := range r.spans {
		if byID[string(s.SpanId)] != nil {
			r.t.Errorf("span %s %x came twice", s.Name, s.SpanId)
		}
		byID[string(s.SpanId)] = s
	}
	var root *tracepb.Span
	for _, s := range r.spans {
		parent := byID[string(s.ParentSpanId)]
		switch {
		case len(s.ParentSpanId) == 0 && root == nil:
			root = s
		case len(s.ParentSpanId) == 0:
			r.t.Errorf("two roots: %s and %s", root.Name, s.Name)
		case parent == nil:
			r.t.Errorf("%s has a parent that never came", s.Name)
		case !bytes.Equal(s.TraceId, parent.TraceId):
			r.t.Errorf("%s is of another trace than its parent", s.Name)
		case s.Kind == tracepb.Span_SPAN_KIND_CLIENT: // devices share requests, and may end before one that they began
		case s.StartTimeUnixNano < parent.StartTimeUnixNano || s.EndTimeUnixNano > parent.EndTimeUnixNano:
			r.t.Errorf("%s does not lie within %s", s.Name, parent.Name)
		}
	}
	if root == nil {
		r.t.Fatal("no root span")
	}
	return root
}

// secretFree fails if anything secret was sent: the token, a key of a device or
// a piece of one, the headers' value.
func (r *otlpReceiver) secretFree(secrets ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, body := range r.raw {
		for _, secret := range append(secrets, "PRIVATE KEY", "BEGIN", "Bearer", "Authorization") {
			if secret == "" {
				r.t.Fatal("nothing to look for")
			}
			if bytes.Contains(body, []byte(secret)) {
				r.t.Errorf("%.12q... was sent to the collector", secret)
			}
		}
	}
}

type grpcTraces struct {
	coltraces.UnimplementedTraceServiceServer
	r *otlpReceiver
}

func (g grpcTraces) Export(_ context.Context, req *coltraces.ExportTraceServiceRequest) (*coltraces.ExportTraceServiceResponse, error) {
	g.r.takeSpans(req)
	return &coltraces.ExportTraceServiceResponse{}, nil
}

type grpcMetrics struct {
	colmetrics.UnimplementedMetricsServiceServer
	r *otlpReceiver
}

func (g grpcMetrics) Export(_ context.Context, req *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	g.r.takeMetrics(req)
	return &colmetrics.ExportMetricsServiceResponse{}, nil
}
