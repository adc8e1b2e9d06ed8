// Package telemetry sends traces and metrics by OTLP. Whatever the collector
// does, lots neither wait for it nor fail because of it.
package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/metrics"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// Telemetry sends traces and metrics by OTLP. A nil one sends nothing and
// costs nothing. Whatever the collector does, a lot neither waits for it nor
// fails because of it: the queue is bounded, and so is the end.
type Telemetry struct {
	log     *slog.Logger
	batch   bool // has many lots: what is lost is said at the end of each
	station string
	share   float64 // of families that are sent

	lots    *sdktrace.TracerProvider // verbs and phases; nil without traces
	tracer  oteltrace.Tracer         // of families
	queue   sdktrace.SpanProcessor
	metrics *sdkmetric.MeterProvider // nil without metrics
	meter   *metrics.Meter
	cutOff  func(context.Context) error // ends exports of spans under way

	tally tally
}

// flushLimit is the most time that the end of a verb waits for the collector.
const flushLimit = 3 * time.Second

// Open starts what the configuration asks for; nil for nothing. books
// is the meter to send; nil makes one of the ledger and of runs.
func Open(ctx context.Context, cfg *config.Config, env config.Environ, log *slog.Logger, books *metrics.Meter) (*Telemetry, error) {
	traces, err := newCollector(cfg.Telemetry, env, signalTraces)
	if err != nil {
		return nil, err
	}
	metrics, err := newCollector(cfg.Telemetry, env, signalMetrics)
	if err != nil || traces == nil && metrics == nil {
		return nil, err
	}
	// The SDK's own log can hold what the environment says, headers included.
	otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) // what they are about is tallied
	t := &Telemetry{log: log, batch: books != nil, station: cfg.Audit.Station, share: cfg.Telemetry.Sample}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		semconv.ServiceName("keymill"), semconv.ServiceVersion(build.Version()), semconv.ServiceInstanceID(t.station)),
		resource.WithFromEnv())
	if err != nil {
		return nil, telemetryFault(err, "Correct OTEL_RESOURCE_ATTRIBUTES.")
	}
	if traces != nil {
		if err := t.openTraces(ctx, traces, about); err != nil {
			return nil, err
		}
	}
	if metrics != nil {
		ownInterval := env.Get("OTEL_METRIC_EXPORT_INTERVAL") != "" && cfg.Where("telemetry.interval") != config.EnvName("telemetry.interval")
		if err := t.openMetrics(ctx, metrics, about, cfg, books, ownInterval); err != nil {
			t.shutdown(ctx)
			return nil, err
		}
	}
	return t, nil
}

// openTraces starts sending spans. The queue has the SDK's 2048, or what
// OTEL_BSP_MAX_QUEUE_SIZE says.
func (t *Telemetry) openTraces(ctx context.Context, c *collector, about *resource.Resource) error {
	client, err := c.tracesClient(&t.tally)
	if err != nil {
		return err
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return telemetryFault(err, "Correct the endpoint or its certificates.")
	}
	batches := sdktrace.NewBatchSpanProcessor(&talliedSpans{exporter, &t.tally}, sdktrace.WithExportTimeout(c.timeout))
	t.queue = &talliedQueue{batches, &t.tally}
	// OTEL_TRACES_SAMPLER decides about lots, the share about devices in them.
	t.lots = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(t.queue), sdktrace.WithResource(about))
	families := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(t.queue), sdktrace.WithResource(about),
		sdktrace.WithSampler(familySampler{}))
	t.tracer = trace.Of(families)
	t.cutOff = exporter.Shutdown
	return nil
}

// openMetrics starts sending figures. ownInterval says that the SDK finds the
// interval in the environment.
func (t *Telemetry) openMetrics(ctx context.Context, c *collector, about *resource.Resource, cfg *config.Config, books *metrics.Meter, ownInterval bool) error {
	exporter, err := c.metricsExporter(ctx, &t.tally)
	if err != nil {
		return telemetryFault(err, "Correct the endpoint or its certificates.")
	}
	if !t.batch {
		books = metrics.New(config.MetricsConfig{}, t.station, time.Now())
		t.meter = books
	}
	options := []sdkmetric.PeriodicReaderOption{sdkmetric.WithTimeout(c.timeout), sdkmetric.WithProducer(newBooksProducer(books, cfg.Ledger, &t.tally, t.batch))}
	if !ownInterval {
		options = append(options, sdkmetric.WithInterval(cfg.Telemetry.Interval))
	}
	t.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithResource(about),
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(&talliedMetrics{exporter, &t.tally}, options...)))
	return nil
}

// Begun returns a hook of that name that tells the meter, too.
func (t *Telemetry) Begun(next func(station.Begun)) func(station.Begun) {
	if t == nil || t.meter == nil {
		return next
	}
	return func(r station.Begun) {
		t.meter.Begun(r)
		if next != nil {
			next(r)
		}
	}
}

// Follower returns what pipeline.Line.Follow gets, nil without traces.
func (t *Telemetry) Follower() pipeline.Follower {
	if t == nil || t.lots == nil {
		return nil
	}
	return t.follow
}

// RequestFollower returns what mender.Config.Follow gets, nil without traces.
func (t *Telemetry) RequestFollower() func(context.Context, mender.Attempt) func(mender.Answer) {
	if t == nil || t.lots == nil {
		return nil
	}
	return t.followRequest
}

// Close sends what waits, as far as the collector takes it in time, and says
// what was lost. It does so also when the verb was interrupted.
func (t *Telemetry) Close(ctx context.Context) {
	if t == nil {
		return
	}
	t.shutdown(context.WithoutCancel(ctx))
	t.tally.warn(t.log, true)
}

// shutdown ends everything within flushLimit. What the SDK says of failed
// exports repeats the collector's answers, which may hold what it was sent: the
// tally has it in words of ours.
func (t *Telemetry) shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	var both sync.WaitGroup
	if t.lots != nil {
		both.Go(func() {
			if t.lots.Shutdown(ctx) != nil {
				t.cutOff(ctx) //nolint:errcheck // as above
			}
		})
	}
	if t.metrics != nil {
		both.Go(func() { t.metrics.Shutdown(ctx) }) //nolint:errcheck // as above
	}
	both.Wait()
	if t.meter == nil {
		return
	}
	if err := t.meter.Close(); err != nil {
		t.log.Warn("the ledger was not closed", "error", err)
	}
}
