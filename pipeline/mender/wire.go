package mender

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"keymill/pipeline"
)

// wire carries single attempts: it waits at the gate, adds the token, sends,
// reads the whole answer and judges it. The answer goes into the call, so the
// response that it returns has no body left.
type wire struct {
	inner http.RoundTripper
	gate  *gate
	token *tokenKeeper
	log   *slog.Logger

	follow func(context.Context, Attempt) func(Answer) // nil where nobody does
}

// RoundTrip implements http.RoundTripper for requests made by Client.do.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	k, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil, errUnsettled
	}
	k.done, k.again, k.err, k.answer = false, false, nil, answer{}
	pass, err := w.enter(ctx, k)
	if err != nil {
		return nil, k.fail(ctx, err)
	}
	k.attempts++
	w.gate.sent(k.attempts > 1)
	err = w.followed(req, k)
	out := w.judge(ctx, k, err)
	if w.gate.leave(pass, out) && k.again {
		k.again, k.err = false, w.gate.outage()
	}
	spoke := err == nil && k.fromAPI() // the server itself, no gateway before it
	k.lost = k.lost || (out.kind == outFailed && !spoke)
	if out.kind == outFailed {
		w.count(k, pass, spoke)
	}
	if k.again && w.ownFault(k) {
		k.again, k.err = false, w.exhausted(k, err)
	}
	w.logAttempt(ctx, k, pass, err)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: k.status, Header: k.header, Body: http.NoBody, Request: req}, nil
}

// count notes that the call failed once more.
func (w *wire) count(k *call, p pass, spoke bool) {
	served := w.gate.servedSoFar()
	others := k.failed.IsZero() || served > k.served
	if k.failed.IsZero() {
		k.failed = time.Now()
	}
	k.served = served
	switch {
	case k.quick:
		k.failures++
	case k.maxFailures > 0 && !spoke, p.trial && !spoke:
		// The trouble of whatever stands between, or of a server that is down.
	case others || k.maxFailures > 0:
		k.failures++
	default:
		k.lonely++
	}
}

// ownFault reports whether a call has failed so often that the fault is taken to
// be its own rather than the server's. While no Mender server has been seen here,
// it is the server's.
func (w *wire) ownFault(k *call) bool {
	most := k.maxFailures
	if most == 0 {
		most = maxFailures
	}
	switch {
	case k.quick:
		return k.failures >= probeFailures
	case !w.gate.knowsServer():
		return false
	case k.failures >= most:
		return true
	}
	return k.failures+k.lonely >= most && time.Since(k.failed) >= lonelyPatience
}

// fail ends the call with err, unless its caller has gone.
func (k *call) fail(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		k.err = err
	}
	return err
}

// enter returns with a token and a pass. Asking for a token can need a pass of
// its own, so it comes first; a token that was refused while we stood in the
// queue sends us back.
func (w *wire) enter(ctx context.Context, k *call) (pass, error) {
	for {
		if k.user == "" && !w.token.usable() {
			if _, err := w.token.renew(ctx, w.token.current()); err != nil {
				return pass{}, err
			}
		}
		p, err := w.gate.enter(ctx)
		if err != nil || k.user != "" || w.token.usable() {
			return p, err
		}
		w.gate.leave(p, outcome{kind: outAborted})
	}
}

// header returns the headers of the next attempt, with the newest token.
func (w *wire) header(k *call) http.Header {
	if k.user != "" {
		r := http.Request{Header: http.Header{"User-Agent": {w.token.agent}}}
		r.SetBasicAuth(k.user, k.password)
		return r.Header
	}
	k.used = w.token.current()
	if k.send != nil {
		return k.used.json
	}
	return k.used.plain
}

// followed is attempt, with whoever follows told of it.
func (w *wire) followed(req *http.Request, k *call) error {
	if w.follow == nil {
		return w.attempt(req, w.header(k), k)
	}
	answered := w.follow(req.Context(), Attempt{Method: k.method, URL: req.URL, Number: k.attempts})
	err := w.attempt(req, w.header(k), k)
	answered(Answer{Status: k.status, RequestID: k.requestID, Protocol: k.proto, Err: err})
	return err
}

// attempt sends the request once and fills in the call's answer.
func (w *wire) attempt(req *http.Request, header http.Header, k *call) error {
	ctx, cancel := context.WithTimeout(req.Context(), k.timeout)
	defer cancel()
	out := req.WithContext(ctx)
	out.Header = header
	sent := time.Now()
	resp, err := w.inner.RoundTrip(out)
	if err != nil {
		return err
	}
	body, err := readBody(resp, k.maxBody)
	if err != nil {
		return err
	}
	now := time.Now()
	k.answer = answer{
		status: resp.StatusCode, header: resp.Header, body: body,
		requestID: resp.Header.Get("X-Men-Requestid"), proto: resp.Proto, tls: resp.TLS,
		received: now, took: now.Sub(sent),
	}
	return nil
}

// readBody reads all of the body, so that the connection can be used again.
func readBody(resp *http.Response, most int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength == 0 {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > most {
		return nil, errTooLong
	}
	return body, nil
}

// judge decides what an attempt means for the call and what the gate learns
// from it.
func (w *wire) judge(ctx context.Context, k *call, err error) outcome {
	if err != nil {
		return w.judgeError(ctx, k, err)
	}
	switch s := k.status; {
	case k.optional && k.settled():
		k.done = k.decode == nil || k.decode(&k.answer) == nil
		return outcome{kind: outAlive}
	case s == http.StatusNotFound && !k.fromAPI() && !k.quick && (w.gate.knowsServer() || !w.gate.failingFor(strangerPatience)):
		// A gateway says so while its backend is restarted. Taken for the
		// server's word, it would say that a device is gone.
		return k.repeat(statusError(k))
	case s == http.StatusNotFound && !k.fromAPI():
		k.err = w.down(statusError(k), statusHint(s))
		return outcome{kind: outAnswered}
	case k.settled():
		if k.done = k.decode == nil || k.decode(&k.answer) == nil; k.done {
			return outcome{kind: outAlive}
		}
		return k.repeat(errGarbled)
	case s == http.StatusUnauthorized:
		return w.judgeRefusal(k)
	case s == http.StatusTooManyRequests:
		k.again = true
		after, told := retryAfter(k.header, time.Now())
		return outcome{kind: outQuota, after: after, told: told, err: statusError(k)}
	case s == http.StatusServiceUnavailable:
		out := k.repeat(statusError(k))
		out.after, out.told = retryAfter(k.header, time.Now())
		out.overload = true
		return out
	case s >= 500, s == http.StatusRequestTimeout, s == http.StatusTooEarly, s >= 200 && s < 300:
		return k.repeat(statusError(k))
	case s < 400, s == http.StatusForbidden, s == http.StatusNotFound,
		s == http.StatusMethodNotAllowed, s == http.StatusProxyAuthRequired:
		k.err = w.down(statusError(k), statusHint(s))
		return outcome{kind: outAnswered}
	}
	k.err = statusError(k)
	return outcome{kind: outAlive}
}

func (k *call) repeat(err error) outcome {
	k.again = true
	return outcome{kind: outFailed, err: err}
}

func (w *wire) judgeError(ctx context.Context, k *call, err error) outcome {
	switch {
	case ctx.Err() != nil:
		return outcome{kind: outAborted}
	case errors.Is(err, errTooLong):
		k.err = err
		return outcome{kind: outAlive}
	case isTLSRefusal(err):
		// A certificate doesn't heal by asking again.
		k.err = w.down(err, errorHint(err))
		return outcome{kind: outFailed, err: err}
	}
	out := k.repeat(err)
	out.overload = errors.Is(err, context.DeadlineExceeded)
	return out
}

// judgeRefusal allows one more attempt with the token read again.
func (w *wire) judgeRefusal(k *call) outcome {
	k.refusals++
	if k.used != nil {
		w.token.refuse(k.used)
	}
	if k.refusals > 1 || k.user != "" {
		k.err = w.down(statusError(k), statusHint(http.StatusUnauthorized))
	} else {
		k.again = true
	}
	return outcome{kind: outAnswered}
}

func (w *wire) down(err error, hint string) error {
	return &pipeline.Outage{Part: pipeline.PartServer, Err: err, Hint: hint}
}

func (w *wire) logAttempt(ctx context.Context, k *call, p pass, err error) {
	if !w.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	w.log.DebugContext(ctx, "request", "method", k.method, "path", k.path, "query", k.query,
		"status", k.status, "request_id", k.requestID, "attempt", k.attempts,
		"took", time.Since(p.started), "again", k.again, "err", err)
}

const (
	// strangerPatience is how long a gateway may answer 404 before a Mender server
	// was seen behind it: longer, and the address is taken to be wrong.
	strangerPatience = 90 * time.Second
	// retryAfterCap bounds what is believed about the time of the next answer.
	retryAfterCap = 24 * time.Hour
)

// retryAfter reads Retry-After (RFC 9110, section 10.2.3): whole seconds, or a
// date. It reports whether there is one that makes sense.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := h.Get("Retry-After")
	if v == "" {
		return 0, false
	}
	if secs, err := strconv.ParseInt(v, 10, 64); err == nil {
		if secs < 0 {
			return 0, false
		}
		return time.Duration(min(secs, int64(retryAfterCap/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), retryAfterCap), true
}
