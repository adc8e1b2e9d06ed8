package mender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymill/pipeline"
)

// matrixFault is what happens to one request. It is called before the server's
// work and, unless that gave an answer, after it.
type matrixFault struct {
	name   string
	outage bool // the client may call it an outage; the same work is then done again
	do     func(r *fakeRequest) (*http.Response, error)
}

func before(answer func(r *fakeRequest) (*http.Response, error)) func(*fakeRequest) (*http.Response, error) {
	return func(r *fakeRequest) (*http.Response, error) {
		if r.after {
			return nil, nil
		}
		return answer(r)
	}
}

func after(answer func(r *fakeRequest) (*http.Response, error)) func(*fakeRequest) (*http.Response, error) {
	return func(r *fakeRequest) (*http.Response, error) {
		if !r.after {
			return nil, nil
		}
		return answer(r)
	}
}

func status(code int, body string, header ...string) func(*fakeRequest) (*http.Response, error) {
	return func(*fakeRequest) (*http.Response, error) {
		resp := reply(code, body)
		for i := 0; i+1 < len(header); i += 2 {
			resp.Header.Set(header[i], header[i+1])
		}
		return resp, nil
	}
}

func hang(r *fakeRequest) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func failing(err error) func(*fakeRequest) (*http.Response, error) {
	return func(*fakeRequest) (*http.Response, error) { return nil, err }
}

// stuck is a body that never ends.
type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

const (
	apiError = `{"error":"internal error","request_id":"r"}`
	htmlPage = "<html><body><h1>502 Bad Gateway</h1></body></html>"
)

var matrixFaults = []matrixFault{
	{name: "timeout before", do: before(hang)},
	{name: "timeout after storing", do: after(hang)},
	{name: "reset before", do: before(failing(errReset))},
	{name: "reset after storing", do: after(failing(errReset))},
	{name: "500 not stored", do: before(status(500, apiError))},
	{name: "500 stored", do: after(status(500, apiError))},
	{name: "500 with orphan", do: func(r *fakeRequest) (*http.Response, error) {
		r.orphan = true // the server answers 500 by itself where it stores
		if r.after && r.op != "preauthorize" {
			return status(500, apiError)(r)
		}
		return nil, nil
	}},
	{name: "502 html page", do: before(status(502, htmlPage))},
	{name: "502 html page after storing", do: after(status(502, htmlPage))},
	{name: "503", do: before(status(503, apiError))},
	{name: "503 with Retry-After", do: before(status(503, apiError, "Retry-After", "7"))},
	{name: "429 with Retry-After", do: before(status(429, apiError, "Retry-After", "9"))},
	{name: "429 without Retry-After", do: before(status(429, apiError))},
	{name: "401 in the middle", outage: true, do: before(status(401, apiError))},
	{name: "truncated body", do: after(func(r *fakeRequest) (*http.Response, error) { return truncated(r.answer), nil })},
	{name: "body cut but well framed", do: after(func(r *fakeRequest) (*http.Response, error) {
		body, _ := io.ReadAll(r.answer.Body)
		resp := reply(r.answer.StatusCode, string(body[:len(body)/2]))
		resp.Header = r.answer.Header
		return resp, nil
	})},
	{name: "slow body", do: after(func(r *fakeRequest) (*http.Response, error) {
		r.answer.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), stuck{r.Context()}))
		r.answer.ContentLength = -1
		return r.answer, nil
	})},
	{name: "DNS gone", do: before(failing(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}))},
	{name: "TLS expired", outage: true, do: before(failing(&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}))},
}

// matrixLot is a small lot that needs every kind of request.
type matrixLot struct {
	f     *fake
	reqs  []pipeline.Preauth
	undo  int // the first so many are removed again
	sets  []pipeline.AuthSet
	fired int
}

func newMatrixLot(t *testing.T) *matrixLot {
	l := &matrixLot{f: newFake(t), undo: 3}
	l.f.latency, l.f.deleting = 3*time.Millisecond, 2*time.Second
	for i := range 8 {
		spki, key := newKey(t)
		l.reqs = append(l.reqs, pipeline.Preauth{Identity: identity(i), SPKI: spki, Policy: pipeline.ConflictReplace})
		_, other := newKey(t)
		switch i {
		case 3: // stored by an earlier run
			l.f.put(identity(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
		case 4: // orphan
			l.f.put(identity(i), StatusPreauthorized)
		case 5: // another key
			l.f.put(identity(i), StatusPreauthorized, fakeSet{PubKey: other, Status: StatusPreauthorized})
		case 6: // being deleted
			d := l.f.put(identity(i), StatusPreauthorized, fakeSet{PubKey: other, Status: StatusPreauthorized})
			d.Decommissioning, d.gone = true, time.Now().Add(5*time.Second)
			l.f.dying[d.ID] = d
		}
	}
	l.sets = make([]pipeline.AuthSet, len(l.reqs))
	return l
}

func (l *matrixLot) expected() []Expected {
	var all []Expected
	for i, r := range l.reqs {
		all = append(all, Expected{Identity: r.Identity, SPKI: r.SPKI, DeviceID: l.sets[i].DeviceID})
	}
	return all
}

// run does what a lot does: preauthorize what isn't yet, compare, remove a part.
func (l *matrixLot) run(ctx context.Context, c *Client) error {
	errs := make([]error, len(l.reqs))
	var wg sync.WaitGroup
	for i, r := range l.reqs {
		if l.sets[i].Status == "" {
			wg.Go(func() { l.sets[i], errs[i] = c.Preauthorize(ctx, r) })
		}
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	seen := 0
	for _, err := range c.Verify(ctx, each(l.expected()), VerifyOptions{}) {
		if err != nil {
			return err
		}
	}
	for f, err := range c.Verify(ctx, each(l.expected()), VerifyOptions{Unexpected: true}) {
		if err != nil {
			return err
		}
		if seen++; f.Category != CatPreauthorized && !l.removing() {
			return fmt.Errorf("%s is %s", f.Identity, f.Category)
		}
	}
	if seen != len(l.reqs) {
		return fmt.Errorf("%d findings for %d devices", seen, len(l.reqs))
	}
	for u, err := range c.Undo(ctx, each(l.expected()[:l.undo])) {
		if err = errors.Join(err, u.Err); err != nil {
			return err
		}
	}
	return nil
}

// removing reports whether an earlier run has come as far as undoing.
func (l *matrixLot) removing() bool {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.bury()
	for _, r := range l.reqs[:l.undo] {
		if d := l.f.devices[l.f.byIdent[string(r.Identity.JSON())]]; d == nil || d.Decommissioning {
			return true
		}
	}
	return false
}

// arm lets the fault hit the 1st, 2nd and 4th request of an operation.
func (l *matrixLot) arm(fault matrixFault, op string, hit func()) {
	var mu sync.Mutex
	seen := map[*http.Request]bool{}
	count := 0
	l.f.fault = func(r *fakeRequest) (*http.Response, error) {
		if r.op != op {
			return nil, nil
		}
		mu.Lock()
		if !r.after {
			count++
			seen[r.Request] = count == 1 || count == 2 || count == 4
		}
		struck := seen[r.Request]
		mu.Unlock()
		if !struck {
			return nil, nil
		}
		resp, err := fault.do(r)
		if resp != nil || err != nil || r.orphan {
			mu.Lock()
			l.fired++
			mu.Unlock()
			hit()
		}
		return resp, err
	}
}

// Every fault in every kind of request, with the client alive and with it
// killed at that moment and started again: afterwards each device has exactly
// one right auth set, and each request was counted.
func TestFaultMatrix(t *testing.T) {
	for _, fault := range matrixFaults {
		for _, op := range []string{"preauthorize", "get", "list", "delete"} {
			for _, kill := range []bool{false, true} {
				name := fmt.Sprintf("%s/%s/alive", fault.name, op)
				if kill {
					name = fmt.Sprintf("%s/%s/killed", fault.name, op)
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { runCell(t, fault, op, kill) })
				})
			}
		}
	}
}

func runCell(t *testing.T, fault matrixFault, op string, kill bool) {
	l := newMatrixLot(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hit := func() {}
	if kill {
		hit = func() { cancel() }
	}
	l.arm(fault, op, hit)
	counted := int64(0)
	err := errors.New("not begun")
	for round := 0; err != nil && round < 6; round++ {
		c := l.f.client(t)
		err = l.run(ctx, c)
		counted += c.Stats().Requests
		switch {
		case err == nil:
		case ctx.Err() != nil:
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("killed, but the error is %v", err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
		case !fault.outage || !isOutage(err):
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if l.fired == 0 {
		t.Error("the fault never struck")
	}
	if counted != int64(len(l.f.requests)) {
		t.Errorf("%d requests counted of %d", counted, len(l.f.requests))
	}
	time.Sleep(l.f.deleting) // until the server has finished deleting
	l.f.mu.Lock()
	l.f.bury()
	left := len(l.f.devices)
	l.f.mu.Unlock()
	if left != len(l.reqs)-l.undo {
		t.Errorf("%d devices on the server, want %d", left, len(l.reqs)-l.undo)
	}
	for _, r := range l.reqs[l.undo:] {
		l.f.check(r.Identity, r.SPKI)
	}
}
