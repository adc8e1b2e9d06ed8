package telemetry

import (
	"context"
	"math/rand/v2"
	"sync"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// family is a device's span and those below it, or a request's that belongs to
// no device. Lots have too many of them, so only a share is sent. Whether one
// fails is known at its end: until then the spans of those that are not chosen
// are held here.
type family struct {
	chosen bool // one of the share

	mu   sync.Mutex
	held []sdktrace.ReadOnlySpan // guarded by mu; not of chosen ones
}

// mostHeld bounds a family: a device can be refused many times.
const mostHeld = 64

type familyKey struct{}

// familyOf returns the family that ctx is in, nil if it is in none.
func familyOf(ctx context.Context) *family {
	f, _ := ctx.Value(familyKey{}).(*family)
	return f
}

// newFamily begins one, chosen by chance.
func newFamily(ctx context.Context, share float64) (context.Context, *family) {
	f := &family{chosen: rand.Float64() < share}
	return context.WithValue(ctx, familyKey{}, f), f
}

// familySampler records all spans of families, but marks as sampled only those
// of chosen ones: the SDK sends those by itself.
type familySampler struct{}

// ShouldSample implements sdktrace.Sampler.
func (familySampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	result := sdktrace.SamplingResult{
		Decision: sdktrace.RecordOnly, Tracestate: oteltrace.SpanContextFromContext(p.ParentContext).TraceState(),
	}
	if f := familyOf(p.ParentContext); f != nil && f.chosen {
		result.Decision = sdktrace.RecordAndSample
	}
	return result
}

// Description implements sdktrace.Sampler.
func (familySampler) Description() string { return "keymill families" }

// ended takes a span of the family that has ended.
func (f *family) ended(span oteltrace.Span) {
	read, ok := span.(sdktrace.ReadOnlySpan)
	if f.chosen || !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.held) < mostHeld {
		f.held = append(f.held, read)
	}
}

// send queues what was held.
func (f *family) send(queue sdktrace.SpanProcessor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, span := range f.held {
		queue.OnEnd(sampledSpan{span})
	}
	f.held = nil
}

// sampledSpan is a span that turned out to be worth sending.
type sampledSpan struct{ sdktrace.ReadOnlySpan }

// SpanContext implements sdktrace.ReadOnlySpan.
func (s sampledSpan) SpanContext() oteltrace.SpanContext {
	sc := s.ReadOnlySpan.SpanContext()
	return sc.WithTraceFlags(sc.TraceFlags().WithSampled(true))
}
