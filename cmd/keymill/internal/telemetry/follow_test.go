package telemetry

import (
	"context"
	"net/url"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// BenchmarkTelemetryDevice is what following costs a device with three steps
// and one request: of one that is not chosen,
// and of one that is sent.
func BenchmarkTelemetryDevice(b *testing.B) {
	for name, share := range map[string]float64{"recorded": 0, "sent": 1} {
		b.Run(name, func(b *testing.B) {
			t := &Telemetry{share: share, queue: nowhere{}}
			t.lots = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(t.queue))
			t.tracer = trace.Of(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(t.queue), sdktrace.WithSampler(familySampler{})))
			ctx, root := trace.Of(t.lots).Start(b.Context(), "carry")
			defer root.End()
			rec := &pipeline.Record{Device: pipeline.Device{Identity: pipeline.Identity{{Name: "mac", Value: "00:11:22:33:44:55"}}}}
			address := &url.URL{Scheme: "https", Host: "hosted.mender.io", Path: "/api/management/v2/devauth/devices"}
			b.ReportAllocs()
			for b.Loop() {
				device, ended := t.follow(ctx, rec, "")
				for _, from := range []pipeline.State{pipeline.Planned, pipeline.Staged, pipeline.Preauthorized} {
					step, stepped := t.follow(device, rec, from)
					if from == pipeline.Staged {
						t.followRequest(step, mender.Attempt{Method: "POST", URL: address, Number: 1})(mender.Answer{Status: 201, Protocol: "HTTP/2.0", RequestID: "x"})
					}
					stepped(nil)
				}
				ended(nil)
			}
		})
	}
}

// nowhere takes spans and forgets them.
type nowhere struct{}

func (nowhere) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (nowhere) OnEnd(sdktrace.ReadOnlySpan) {}

func (nowhere) Shutdown(context.Context) error { return nil }

func (nowhere) ForceFlush(context.Context) error { return nil }
