package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/status"
)

// tally counts what was handed to the SDK and what the collector took, so that
// the end can say what is missing.
type tally struct {
	spans, taken, refused atomic.Int64

	mu      sync.Mutex
	trouble string // guarded by mu; the last one, without what a collector wrote
	stale   bool   // guarded by mu; the newest metrics were not taken
	said    int64  // guarded by mu; spans whose loss was said already
}

func (t *tally) hear(trouble string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trouble = trouble
}

// hearUnlessTold notes what is said only where nothing better is known.
func (t *tally) hearUnlessTold(trouble string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trouble == "" {
		t.trouble = trouble
	}
}

// missed notes that the newest metrics were not even made.
func (t *tally) missed(trouble string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trouble, t.stale = trouble, true
}

// warn says what was lost, if anything was that was not said before. Until the
// end what waits in the queue is not lost.
func (t *tally) warn(log *slog.Logger, end bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	spans, lost := t.spans.Load(), t.refused.Load()
	if end {
		lost = spans - t.taken.Load()
	}
	if lost <= t.said && (!end || !t.stale) {
		return
	}
	t.said = lost
	why := t.trouble
	if why == "" {
		why = "more than the collector took in time"
	}
	log.Warn("the collector did not take all telemetry; devices are not affected",
		"spans", spans, "spans_lost", lost, "newest_metrics_lost", t.stale, "why", why)
}

// heardTransport notes how requests end. The exporter's own errors repeat what
// the collector answered, which may be what it was sent.
type heardTransport struct {
	http.RoundTripper
	tally *tally
}

func (h *heardTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := h.RoundTripper.RoundTrip(req)
	switch {
	case err != nil && req.Context().Err() != nil:
		h.tally.hearUnlessTold("no answer in time")
	case err != nil:
		h.tally.hear(err.Error())
	case resp.StatusCode/100 != 2:
		h.tally.hear(resp.Status)
	}
	return resp, err
}

// exported judges the end of an export: the number of items of it that the
// collector refused, all of them where it took nothing.
func (t *tally) exported(items int64, err error) (refused int64) {
	if err == nil {
		return 0
	}
	if partial := partialSuccess.FindStringSubmatch(err.Error()); partial != nil {
		t.hear("the collector refused part of what it was sent")
		n, err := strconv.ParseInt(partial[1], 10, 64)
		if err != nil {
			return items
		}
		return min(n, items)
	}
	var answered interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		t.hearUnlessTold("no answer in time")
	case errors.As(err, &answered):
		t.hear(answered.GRPCStatus().Code().String())
	default:
		t.hearUnlessTold("its answer is not OTLP")
	}
	return items
}

// partialSuccess finds the number in the SDK's error about a collector that
// took only part; its type is not exported.
var partialSuccess = regexp.MustCompile(`OTLP partial success: .*\((\d+) [a-z ]+ rejected\)`)

// talliedSpans is an exporter of spans that counts.
type talliedSpans struct {
	sdktrace.SpanExporter
	tally *tally
}

func (e *talliedSpans) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	n := int64(len(spans))
	refused := e.tally.exported(n, err)
	e.tally.refused.Add(refused)
	e.tally.taken.Add(n - refused)
	return err
}

// talliedMetrics is an exporter of metrics that remembers whether the newest
// were taken: they repeat what came before.
type talliedMetrics struct {
	sdkmetric.Exporter
	tally *tally
}

func (e *talliedMetrics) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	err := e.Exporter.Export(ctx, rm)
	refused := e.tally.exported(1, err) > 0
	e.tally.mu.Lock()
	defer e.tally.mu.Unlock()
	e.tally.stale = refused
	return err
}

// talliedQueue counts what goes into the bounded queue of spans.
type talliedQueue struct {
	sdktrace.SpanProcessor
	tally *tally
}

func (q *talliedQueue) OnEnd(span sdktrace.ReadOnlySpan) {
	if span.SpanContext().IsSampled() {
		q.tally.spans.Add(1)
	}
	q.SpanProcessor.OnEnd(span)
}
