// Package trace begins spans below that of a context; without telemetry it
// costs nothing.
package trace

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// Scope is the instrumentation scope of all spans and metrics.
const Scope = "keymill"

// The attributes of verbs, lots and phases. None is ever a key, a server token,
// a PIN or a header.
const (
	Lot       = attribute.Key("keymill.lot")
	Station   = attribute.Key("keymill.station")
	Algorithm = attribute.Key("keymill.algorithm")
	Format    = attribute.Key("keymill.format")
	Keys      = attribute.Key("keymill.keys")
	Devices   = attribute.Key("keymill.devices")
	ExitCode  = attribute.Key("keymill.exit_code")
)

// Of returns a provider's tracer for spans of keymill.
func Of(provider oteltrace.TracerProvider) oteltrace.Tracer {
	return provider.Tracer(Scope, oteltrace.WithInstrumentationVersion(build.Version()))
}

// DescribeLot says in ctx's span what the lot is.
func DescribeLot(ctx context.Context, lot pipeline.Lot) {
	oteltrace.SpanFromContext(ctx).SetAttributes(Devices.Int(lot.Devices),
		Algorithm.String(lot.Algorithm), Format.String(lot.Format), Keys.String(lot.Keys))
}

// Phase begins a span below that of ctx. Without telemetry it does nothing.
func Phase(ctx context.Context, name string) (_ context.Context, ended func(*error)) {
	parent := oteltrace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func(*error) {}
	}
	ctx, span := Of(parent.TracerProvider()).Start(ctx, name)
	return ctx, func(err *error) {
		if *err != nil && fault.KindOf(*err) != fault.Interrupted {
			Fail(span, ExitName(*err), *err)
		}
		span.End()
	}
}

// ExitName is the error.type of what ends with an exit code.
func ExitName(err error) string { return "exit_" + strconv.Itoa(fault.KindOf(err).ExitCode()) }

// Fail gives a span the status of an error, whose kind is one of a few words.
func Fail(span oteltrace.Span, kind string, err error) {
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, err.Error())
}
