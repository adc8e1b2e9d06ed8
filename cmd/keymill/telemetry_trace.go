package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// tracerName is the instrumentation scope of all spans and metrics.
const tracerName = "keymill"

// The attributes of our own. None is ever a key, a token, a PIN or a header.
const (
	attrLot       = attribute.Key("keymill.lot")
	attrStation   = attribute.Key("keymill.station")
	attrAlgorithm = attribute.Key("keymill.algorithm")
	attrFormat    = attribute.Key("keymill.format")
	attrKeys      = attribute.Key("keymill.keys")
	attrDevices   = attribute.Key("keymill.devices")
	attrExitCode  = attribute.Key("keymill.exit_code")
	attrDevice    = attribute.Key("keymill.device") // the identity's first value, as in the log
	attrRow       = attribute.Key("keymill.row")
	attrAttempt   = attribute.Key("keymill.attempt")
	attrOutcome   = attribute.Key("keymill.outcome") // the state that it was left in
	attrRequestID = attribute.Key("mender.request_id")
)

// beginVerb begins the root span of a verb's work, or of a lot in a batch: cmd
// has it in its context until ended is called.
func (t *telemetry) beginVerb(cmd *cobra.Command, lot string) (ended func(error)) {
	if t == nil || t.lots == nil {
		return func(error) {}
	}
	before := cmd.Context()
	ctx, span := tracerOf(t.lots).Start(before, cmd.CommandPath(),
		trace.WithNewRoot(), trace.WithAttributes(attrStation.String(t.station), attrLot.String(lot)))
	cmd.SetContext(ctx)
	return func(err error) {
		code := 0
		if err != nil {
			code = exitCode(err)
		}
		span.SetAttributes(attrExitCode.Int(code))
		if code != 0 && code != exitInterrupted {
			fail(span, "exit_"+strconv.Itoa(code), err)
		}
		span.End()
		cmd.SetContext(before)
		if t.batch {
			t.tally.warn(t.log, false)
		}
	}
}

func tracerOf(provider trace.TracerProvider) trace.Tracer {
	return provider.Tracer(tracerName, trace.WithInstrumentationVersion(buildVersion()))
}

// describeLotIn says in ctx's span what the lot is.
func describeLotIn(ctx context.Context, lot pipeline.Lot) {
	trace.SpanFromContext(ctx).SetAttributes(attrDevices.Int(lot.Devices),
		attrAlgorithm.String(lot.Algorithm), attrFormat.String(lot.Format), attrKeys.String(lot.Keys))
}

// phase begins a span below that of ctx. Without telemetry it does nothing.
func phase(ctx context.Context, name string) (_ context.Context, ended func(*error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func(*error) {}
	}
	ctx, span := tracerOf(parent.TracerProvider()).Start(ctx, name)
	return ctx, func(err *error) {
		if *err != nil && exitCode(*err) != exitInterrupted {
			fail(span, "exit_"+strconv.Itoa(exitCode(*err)), *err)
		}
		span.End()
	}
}

// fail gives a span the status of an error, whose kind is one of a few words.
func fail(span trace.Span, kind string, err error) {
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, err.Error())
}

// follow implements pipeline.Follower.
func (t *telemetry) follow(ctx context.Context, rec *pipeline.Record, from pipeline.State) (context.Context, func(error)) {
	if from == "" {
		return t.followDevice(ctx, rec)
	}
	f := familyOf(ctx)
	if f == nil {
		return ctx, func(error) {}
	}
	ctx, span := t.tracer.Start(ctx, stepNames[from])
	return ctx, func(err error) {
		if err != nil {
			fail(span, kindOf(err), err)
		}
		span.End()
		f.ended(span)
	}
}

// stepNames are the steps by the state that they start from.
var stepNames = map[pipeline.State]string{
	pipeline.Planned: stages[pipeline.Staged], pipeline.Staged: stages[pipeline.Preauthorized],
	pipeline.Preauthorized: stages[pipeline.Released],
}

func (t *telemetry) followDevice(ctx context.Context, rec *pipeline.Record) (context.Context, func(error)) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, func(error) {}
	}
	ctx, f := newFamily(ctx, t.share)
	ctx, span := t.tracer.Start(ctx, "device", trace.WithAttributes(
		attrDevice.String(rec.Identity.Name()), attrRow.Int(rec.Row), attrAttempt.Int(rec.Attempts)))
	return ctx, func(err error) {
		span.SetAttributes(attrOutcome.String(string(rec.State)))
		failed := err != nil || rec.State == pipeline.Failed || rec.State == pipeline.Conflicted
		switch {
		case err != nil:
			fail(span, kindOf(err), err)
		case failed:
			fail(span, string(rec.State), fmt.Errorf("%s", rec.Reason))
		}
		span.End()
		f.ended(span)
		if failed {
			f.send(t.queue)
		}
	}
}

// kindOf is the error.type of a device's error.
func kindOf(err error) string { return semconv.ErrorType(err).Value.AsString() }

// followRequest follows a request of the Mender client's. Those of a device go
// with the device; of others, as of a verification, a share is sent, and all
// that fail.
func (t *telemetry) followRequest(ctx context.Context, request mender.Attempt) func(mender.Answer) {
	f := familyOf(ctx)
	alone := f == nil
	if alone {
		if !trace.SpanContextFromContext(ctx).IsSampled() {
			return func(mender.Answer) {}
		}
		ctx, f = newFamily(ctx, t.share)
	}
	_, span := t.tracer.Start(ctx, request.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(requestAttributes(request)...))
	return func(answer mender.Answer) {
		failed := answer.Err != nil || answer.Status >= 400
		answerAttributes(span, answer)
		span.End()
		f.ended(span)
		if alone && failed {
			f.send(t.queue)
		}
	}
}

func requestAttributes(request mender.Attempt) []attribute.KeyValue {
	attrs := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(request.Method), semconv.URLFull(request.URL.Redacted()),
		semconv.ServerAddress(request.URL.Hostname()), semconv.ServerPort(portOf(request.URL)),
	}
	if request.Number > 1 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(request.Number-1))
	}
	return attrs
}

func portOf(u *url.URL) int {
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return port
	}
	return 443 // the client speaks only https
}

func answerAttributes(span trace.Span, answer mender.Answer) {
	if answer.Status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(answer.Status),
			semconv.NetworkProtocolVersion(strings.TrimPrefix(strings.TrimSuffix(answer.Protocol, ".0"), "HTTP/")))
	}
	if answer.RequestID != "" {
		span.SetAttributes(attrRequestID.String(answer.RequestID))
	}
	switch {
	case answer.Err != nil:
		fail(span, kindOf(answer.Err), answer.Err)
	case answer.Status >= 400:
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(answer.Status)))
		span.SetStatus(codes.Error, "")
	}
}
