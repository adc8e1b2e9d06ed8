package telemetry

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/metrics"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// The attributes of our own. None is ever a key, a token, a PIN or a header.
const (
	attrDevice    = attribute.Key("keymill.device") // the identity's first value, as in the log
	attrRow       = attribute.Key("keymill.row")
	attrAttempt   = attribute.Key("keymill.attempt")
	attrOutcome   = attribute.Key("keymill.outcome") // the state that it was left in
	attrRequestID = attribute.Key("mender.request_id")
)

// Begin begins the root span of a verb's work, or of a lot in a batch, in
// the context that it returns. ended ends it.
func (t *Telemetry) Begin(ctx context.Context, verb, lot string) (_ context.Context, ended func(error)) {
	if t == nil || t.lots == nil {
		return ctx, func(error) {}
	}
	ctx, span := trace.Of(t.lots).Start(ctx, verb,
		oteltrace.WithNewRoot(), oteltrace.WithAttributes(trace.Station.String(t.station), trace.Lot.String(lot)))
	return ctx, func(err error) {
		kind := fault.KindOf(err)
		span.SetAttributes(trace.ExitCode.Int(kind.ExitCode()))
		if kind != fault.None && kind != fault.Interrupted {
			trace.Fail(span, trace.ExitName(err), err)
		}
		span.End()
		if t.batch {
			t.tally.warn(t.log, false)
		}
	}
}

// follow implements pipeline.Follower.
func (t *Telemetry) follow(ctx context.Context, rec *pipeline.Record, from pipeline.State) (context.Context, func(error)) {
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
			trace.Fail(span, errorType(err), err)
		}
		span.End()
		f.ended(span)
	}
}

// stepNames are the steps by the state that they start from.
var stepNames = map[pipeline.State]string{
	pipeline.Planned: metrics.Stages[pipeline.Staged], pipeline.Staged: metrics.Stages[pipeline.Preauthorized],
	pipeline.Preauthorized: metrics.Stages[pipeline.Released],
}

func (t *Telemetry) followDevice(ctx context.Context, rec *pipeline.Record) (context.Context, func(error)) {
	if !oteltrace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, func(error) {}
	}
	ctx, f := newFamily(ctx, t.share)
	ctx, span := t.tracer.Start(ctx, "device", oteltrace.WithAttributes(
		attrDevice.String(rec.Identity.Name()), attrRow.Int(rec.Row), attrAttempt.Int(rec.Attempts)))
	return ctx, func(err error) {
		span.SetAttributes(attrOutcome.String(string(rec.State)))
		failed := err != nil || rec.State == pipeline.Failed || rec.State == pipeline.Conflicted
		switch {
		case err != nil:
			trace.Fail(span, errorType(err), err)
		case failed:
			trace.Fail(span, string(rec.State), fmt.Errorf("%s", rec.Reason))
		}
		span.End()
		f.ended(span)
		if failed {
			f.send(t.queue)
		}
	}
}

// errorType is the error.type of a device's error.
func errorType(err error) string { return semconv.ErrorType(err).Value.AsString() }

// followRequest follows a request of the Mender client's. Those of a device go
// with the device; of others, as of a verification, a share is sent, and all
// that fail.
func (t *Telemetry) followRequest(ctx context.Context, request mender.Attempt) func(mender.Answer) {
	f := familyOf(ctx)
	alone := f == nil
	if alone {
		if !oteltrace.SpanContextFromContext(ctx).IsSampled() {
			return func(mender.Answer) {}
		}
		ctx, f = newFamily(ctx, t.share)
	}
	_, span := t.tracer.Start(ctx, request.Method, oteltrace.WithSpanKind(oteltrace.SpanKindClient), oteltrace.WithAttributes(requestAttributes(request)...))
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

func answerAttributes(span oteltrace.Span, answer mender.Answer) {
	if answer.Status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(answer.Status),
			semconv.NetworkProtocolVersion(strings.TrimPrefix(strings.TrimSuffix(answer.Protocol, ".0"), "HTTP/")))
	}
	if answer.RequestID != "" {
		span.SetAttributes(attrRequestID.String(answer.RequestID))
	}
	switch {
	case answer.Err != nil:
		trace.Fail(span, errorType(answer.Err), answer.Err)
	case answer.Status >= 400:
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(answer.Status)))
		span.SetStatus(codes.Error, "")
	}
}
