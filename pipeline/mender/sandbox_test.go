package mender

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// trial starts a sandbox on the loopback and returns how to reach it.
func trial(t testing.TB, cfg sandbox.Config) (*sandbox.Sandbox, Config) {
	t.Helper()
	s, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "trial")
	if err := s.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, Config{
		URL: "https://" + ln.Addr().String(), CAFile: filepath.Join(dir, "ca.crt"),
		Token: TokenFile(filepath.Join(dir, "token")), GiveUp: time.Minute,
	}
}

func open(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// faulty is 5 % of everything that can go wrong.
var faulty = sandbox.Faults{Fail: 0.05, Reset: 0.05, Stored500: 0.05, Orphan500: 0.05}

// carry takes n devices to the server, compares all, and checks every device
// with the sandbox's own eyes.
func carry(t testing.TB, s *sandbox.Sandbox, c *Client, n, workers int) {
	t.Helper()
	spki, _ := newKey(t)
	expected := make([]Expected, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				e := Expected{Identity: pipeline.Identity{{Name: "serial", Value: strconv.Itoa(i)}}, SPKI: spki}
				set, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: e.Identity, SPKI: spki})
				if err != nil {
					t.Errorf("device %d: %v", i, err)
				}
				e.DeviceID = set.DeviceID
				expected[i] = e
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	right := 0
	for f, err := range c.Verify(t.Context(), each(expected), VerifyOptions{Unexpected: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Category == CatPreauthorized {
			right++
		}
	}
	single := 0
	for d := range s.Devices() {
		if len(d.AuthSets) == 1 {
			single++
		}
	}
	if right != n || single != n {
		t.Errorf("of %d devices %d compare well, %d have one auth set", n, right, single)
	}
	st := c.Stats()
	t.Logf("%d devices: %d requests, %d retries, %d failures; limit %d", n, st.Requests, st.Retries, st.Failures, st.Limit)
}

// overVersions runs a test against each service that the sandbox plays. The
// client isn't told which it is.
func overVersions(t *testing.T, test func(t *testing.T, v sandbox.Version)) {
	t.Helper()
	for _, v := range []sandbox.Version{sandbox.Main, sandbox.Mender41} {
		t.Run(string(v), func(t *testing.T) { test(t, v) })
	}
}

// The conversation with a server that misbehaves, over real sockets and TLS.
func TestFaultySandbox(t *testing.T) { overVersions(t, testFaultySandbox) }

func testFaultySandbox(t *testing.T, v sandbox.Version) {
	s, cfg := trial(t, sandbox.Config{Version: v, Faults: faulty, Seed: 7})
	c := open(t, cfg)
	carry(t, s, c, 1000, 64)
	if _, err := c.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	var some []Expected
	spki, _ := newKey(t)
	for i := range 100 {
		some = append(some, Expected{Identity: pipeline.Identity{{Name: "undo", Value: strconv.Itoa(i)}}, SPKI: spki})
	}
	for u, err := range c.Undo(t.Context(), each(some)) { // locates, then removes
		if err != nil || u.Err != nil || u.Removal != Removed {
			t.Errorf("%+v, %v", u, err)
		}
	}
}

// Another key is replaced through the sandbox's asynchronous deletion.
func TestReplaceAgainstSandbox(t *testing.T) { overVersions(t, testReplaceAgainstSandbox) }

func testReplaceAgainstSandbox(t *testing.T, v sandbox.Version) {
	_, cfg := trial(t, sandbox.Config{Version: v, Decommission: 50 * time.Millisecond})
	c := open(t, cfg)
	first, _ := newKey(t)
	second, _ := newKey(t)
	if _, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: first}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: second})
	conflict, ok := errors.AsType[*pipeline.ConflictError](err)
	if !ok || conflict.Fingerprint != pipeline.Fingerprint(first) {
		t.Fatalf("error %v, want a conflict with the first key", err)
	}
	set, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: second, Policy: pipeline.ConflictReplace})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := c.Device(t.Context(), set.DeviceID)
	if err != nil || len(dev.AuthSets) != 1 || !sameKey(dev.AuthSets[0].SPKI, second) {
		t.Errorf("%+v, %v", dev, err)
	}
}

// A token that is revoked and written anew in the middle is picked up.
func TestRevokedTokenAgainstSandbox(t *testing.T) {
	s, cfg := trial(t, sandbox.Config{})
	c := open(t, cfg)
	carry(t, s, c, 50, 8)
	s.Revoke()
	if err := s.WriteFiles(filepath.Dir(cfg.CAFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// timed is a transport that notes how long each answer took.
type timed struct {
	http.RoundTripper
	mu   sync.Mutex
	took []time.Duration
}

func (r *timed) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := r.RoundTripper.RoundTrip(req)
	r.mu.Lock()
	r.took = append(r.took, time.Since(began))
	r.mu.Unlock()
	return resp, err
}

func (r *timed) p95() time.Duration {
	slices.Sort(r.took)
	return r.took[len(r.took)*95/100]
}

// BenchmarkAdaptive compares the limit that the client finds with every fixed
// one, against a sandbox with 20 ms latency of which 16 requests at once are of
// use. Run it with -benchtime 1x; the lines are the sweep.
func BenchmarkAdaptive(b *testing.B) {
	const n = 2400
	_, cfg := trial(b, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond, Capacity: 16}})
	spki, _ := newKey(b)
	runs := 0
	run := func(fixed, n int) (float64, time.Duration) {
		cfg := cfg
		inner, err := newTransport(cfg.CAFile, 64)
		if err != nil {
			b.Fatal(err)
		}
		wire := &timed{RoundTripper: inner}
		cfg.InFlight, cfg.Transport = 64, wire
		c := open(b, cfg)
		defer inner.CloseIdleConnections()
		if fixed > 0 {
			c.gate.limit.fixed, c.gate.limit.now = true, fixed
		}
		began := time.Now()
		runs++
		drive(b, c, spki, 128, n, strconv.Itoa(runs)+"-")
		return float64(n) / time.Since(began).Seconds(), wire.p95()
	}
	for range b.N {
		best, bestP95 := 0.0, time.Duration(0)
		for _, fixed := range []int{4, 8, 12, 16, 20, 24, 32, 64} {
			rate, p95 := run(fixed, min(n, 100*fixed))
			b.Logf("fixed %2d: %4.0f/s, p95 %s", fixed, rate, p95.Round(100*time.Microsecond))
			if rate > 1.02*best {
				best, bestP95 = rate, p95
			}
		}
		rate, p95 := run(0, 4*n)
		b.Logf("adaptive: %4.0f/s, p95 %s", rate, p95.Round(100*time.Microsecond))
		b.ReportMetric(100*rate/best, "%ofbest")
		b.ReportMetric(float64(p95)/float64(bestP95), "p95/best")
		b.ReportMetric(rate, "devices/s")
	}
}

// BenchmarkFaultyLot is the lot of 100,000 devices with 5 % of all
// faults; run it with -benchtime 1x. KEYMILL_BENCH_DEVICES makes it another size.
func BenchmarkFaultyLot(b *testing.B) {
	n := 100_000
	if v, err := strconv.Atoi(os.Getenv("KEYMILL_BENCH_DEVICES")); err == nil {
		n = v
	}
	for range b.N {
		s, cfg := trial(b, sandbox.Config{Faults: faulty, Seed: 7})
		carry(b, s, open(b, cfg), n, 256)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}

// BenchmarkVerify compares a lot with the sandbox's full listing;
// KEYMILL_BENCH_DEVICES makes it another size than 20,000.
func BenchmarkVerify(b *testing.B) {
	n := 20_000
	if v, err := strconv.Atoi(os.Getenv("KEYMILL_BENCH_DEVICES")); err == nil {
		n = v
	}
	_, cfg := trial(b, sandbox.Config{})
	c := open(b, cfg)
	spki, _ := newKey(b)
	drive(b, c, spki, 64, n, "v")
	expected := func(yield func(Expected, error) bool) {
		for i := 1; i <= n; i++ {
			if !yield(Expected{Identity: pipeline.Identity{{Name: "serial", Value: "v" + strconv.Itoa(i)}}, SPKI: spki}, nil) {
				return
			}
		}
	}
	b.ResetTimer()
	for range b.N {
		good := 0
		for f, err := range c.Verify(b.Context(), expected, VerifyOptions{Unexpected: true}) {
			if err != nil {
				b.Fatal(err)
			}
			if f.Category.OK() {
				good++
			}
		}
		if good != n {
			b.Fatalf("%d of %d", good, n)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}
