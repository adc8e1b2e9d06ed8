package mender

import (
	"context"
	"crypto/tls"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"keymill/pipeline"
)

const (
	// maxFailures is how often one call may fail while the server serves
	// others, before the fault is taken to be the device's own.
	maxFailures = 20
	// lonelyPatience is for how long a call must have failed before its fault is
	// taken to be the device's own, where no other call shows that the server is
	// well.
	lonelyPatience = 2 * time.Minute

	backoffBase = 100 * time.Millisecond
	backoffCap  = 10 * time.Second

	maxBody     = 1 << 20  // of an answer about one device, bytes
	maxListBody = 16 << 20 // of a page of devices, bytes
)

// call is one call of the API: what to ask, which answers settle it, and what
// came of it. It travels to the wire inside the request's context.
type call struct {
	method string
	path   string
	query  string
	send   []byte // JSON; nil for none

	// settles lists the statuses that answer the call; all others are trouble
	// with the device, the server or something in between.
	settles []int
	// decode reads the body of a settling answer. An error means that the
	// answer is cut or comes from somebody else, and the call is made again.
	decode func(*answer) error

	maxFailures    int  // 0: the default; else only what the server itself says counts
	optional       bool // a 404 from whatever says that there is no such call
	quick          bool // somebody waits for it at a keyboard: every failure counts
	maxBody        int64
	timeout        time.Duration
	user, password string // HTTP Basic in place of the token, for the login

	answer             // the last one
	attempts int       // HTTP requests that it took
	failures int       // of these, that failed while the server served others
	lonely   int       // of these, that failed while nothing showed that the server was well
	failed   time.Time // when the first did
	served   uint64    // what the gate had served when the last did
	refusals int       // of these, answered by 401
	lost     bool      // the server may still be at work on one of them
	used     *bearer
	done     bool  // the last answer settles the call
	again    bool  // the last attempt is worth repeating
	err      error // why there is no settling answer, when again is false
}

// answer is what came back.
type answer struct {
	status    int
	header    http.Header
	body      []byte
	requestID string // X-MEN-RequestID
	proto     string
	tls       *tls.ConnectionState // nil for transports without
	received  time.Time
	took      time.Duration // from the request's first byte to the answer's last
}

type callKey struct{}

// newRetryClient wires go-retryablehttp so that it does the repeating: rewinding
// the body, the pauses between attempts, and their end with the context. What it
// can't do by its hooks is done in the wire, its transport:
//
//   - Each attempt needs a pass from the gate, the first one, too, and must give
//     it back with what was learned. PrepareRetry is called between attempts only;
//     RequestLogHook comes before each, but can neither wait nor refuse, and
//     ResponseLogHook isn't called where there was no answer.
//   - Whether to repeat depends on the whole answer: a 201 whose headers came and
//     whose body was cut is no answer, and an error of the server itself is told
//     from a gateway's by its body. CheckRetry is called before the body is read,
//     and what fails to be read after Do isn't repeated any more.
//   - How often depends on others: on whether the server answers them, and on
//     whether anybody has found the token refused. CheckRetry knows neither the
//     call nor its attempts; the request's context is all that it is given, which
//     is why the call travels in it.
//   - Retry-After holds for everybody. The library's Backoff holds the one who was
//     told, and has no cap.
//
// So CheckRetry hands on what the wire has decided, Backoff is the library's
// place for the pause of this one call, and the ErrorHandler keeps the last
// answer. The library also closes all idle connections after any failure, which
// the wire prevents by not having CloseIdleConnections.
func newRetryClient(w *wire) *retryablehttp.Client {
	return &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: w,
			// A redirected POST would arrive as a GET; the wire reports it.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     math.MaxInt,
		RetryWaitMin: backoffBase,
		RetryWaitMax: backoffCap,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		CheckRetry: func(ctx context.Context, _ *http.Response, _ error) (bool, error) {
			k, ok := ctx.Value(callKey{}).(*call)
			return ok && k.again && ctx.Err() == nil, nil
		},
	}
}

// backoff waits for a random part of a span that doubles (full jitter), and not
// at all where something else is waited for: the gate after a 429, a new token
// after a 401.
func backoff(base, most time.Duration, attempt int, resp *http.Response) time.Duration {
	if resp != nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusUnauthorized) {
		return 0
	}
	span := most
	if attempt < 16 {
		span = min(most, base<<attempt)
	}
	return rand.N(span)
}

// do carries the call until an answer settles it. Its errors: ctx.Err(), an
// *pipeline.Outage, or the trouble of this one call.
func (c *Client) do(ctx context.Context, k *call) error {
	if k.maxBody == 0 {
		k.maxBody = maxBody
	}
	if k.timeout == 0 {
		k.timeout = c.timeout
	}
	u := *c.base
	u.Path += k.path
	u.RawQuery = k.query
	plain := &http.Request{
		Method: k.method, URL: &u, Host: u.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, // the wire puts in the shared one that has the token
	}
	req := &retryablehttp.Request{Request: plain.WithContext(context.WithValue(ctx, callKey{}, k))}
	if k.send != nil {
		if err := req.SetBody(k.send); err != nil {
			return err
		}
	}
	resp, err := c.retry.Do(req)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close() // the wire has read it
	}
	switch {
	case k.done:
		return nil
	case k.err != nil:
		return k.err
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	return pipeline.WithHint(errUnsettled, "This is a fault in keymill; please report it.")
}

func (k *call) settled() bool { return slices.Contains(k.settles, k.status) }
