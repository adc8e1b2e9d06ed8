package mender

import (
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// station is a model of a server: lines of servers that work on one request
// each, after a latency that all requests have in parallel.
type station struct {
	parallel func() time.Duration
	lines    chan struct{} // nil: no limit
	work     func() time.Duration
	took     []time.Duration
}

func newStation(lines int, parallel, work func() time.Duration) *station {
	s := &station{parallel: parallel, work: work}
	if lines > 0 {
		s.lines = make(chan struct{}, lines)
	}
	return s
}

func always(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// logNormal spreads latencies: half of them below median, one in twenty above p95.
func logNormal(median, p95 time.Duration) func() time.Duration {
	rng := rand.New(rand.NewPCG(1, 2))
	sigma := math.Log(float64(p95)/float64(median)) / 1.645
	var mu sync.Mutex
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(float64(median) * math.Exp(sigma*rng.NormFloat64()))
	}
}

func (s *station) attach(f *fake) {
	f.fault = func(r *fakeRequest) (*http.Response, error) {
		if r.after {
			return nil, nil
		}
		began := time.Now()
		time.Sleep(s.parallel())
		if s.lines != nil {
			s.lines <- struct{}{}
			time.Sleep(s.work())
			<-s.lines
		}
		f.mu.Lock()
		s.took = append(s.took, time.Since(began))
		f.mu.Unlock()
		return nil, nil
	}
}

// The limit keeps servers of all kinds at 95 % of what they can do, at no more
// than twice the latency that the best fixed limit has.
func TestLimitFollowsTheServer(t *testing.T) {
	exponential := func(mean time.Duration) func() time.Duration {
		rng := rand.New(rand.NewPCG(3, 4))
		var mu sync.Mutex
		return func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Duration(float64(mean) * rng.ExpFloat64())
		}
	}
	tests := []struct {
		name    string
		station func() *station
		best    int     // the fixed limit to compare with
		share   float64 // of its throughput that is due; a short lot pays for the way up
		n       int
	}{
		{"16 at once, 20 ms each", func() *station { return newStation(16, always(0), always(20*time.Millisecond)) }, 16, 0.95, 6000},
		// 226/s with one in flight, 414/s with 16: what the real service did.
		{"the real service", func() *station {
			return newStation(1, always(2*time.Millisecond), exponential(2400*time.Microsecond))
		}, 8, 0.95, 5000},
		// A busy server: its requests cost CPU time, on so many cores.
		{"2 ms on one core", func() *station { return newStation(1, always(100*time.Microsecond), always(2*time.Millisecond)) }, 16, 0.95, 3000},
		{"2 ms on two cores", func() *station { return newStation(2, always(100*time.Microsecond), exponential(2*time.Millisecond)) }, 16, 0.95, 3000},
		{"5 ms on two cores", func() *station { return newStation(2, always(100*time.Microsecond), exponential(5*time.Millisecond)) }, 16, 0.95, 3000},
		{"5 ms on sixteen cores", func() *station {
			return newStation(16, always(100*time.Microsecond), exponential(5*time.Millisecond))
		}, 64, 0.95, 12000},
		{"no limit but latency", func() *station { return newStation(0, always(50*time.Millisecond), nil) }, 64, 0.9, 12000},
		{"no limit, spread latency", func() *station {
			return newStation(0, logNormal(50*time.Millisecond, 200*time.Millisecond), nil)
		}, 64, 0.9, 12000},
		{"far away", func() *station { return newStation(4, always(150*time.Millisecond), always(10*time.Millisecond)) }, 64, 0.88, 10000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run := func(fixed int) (rate float64, p95 time.Duration, limit int) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t)
					s := tt.station()
					s.attach(f)
					c := f.client(t, func(cfg *Config) { cfg.InFlight = 64 })
					if fixed > 0 {
						c.gate.limit.fixed, c.gate.limit.now = true, fixed
					}
					took := lot(t, c, 100, tt.n)
					slices.Sort(s.took)
					rate, p95, limit = float64(tt.n)/took.Seconds(), s.took[len(s.took)*95/100], c.Stats().Limit
				})
				return rate, p95, limit
			}
			best, bestP95, _ := run(tt.best)
			rate, p95, limit := run(0)
			t.Logf("fixed %d: %.0f/s, p95 %s; adaptive: %.0f/s (%.1f %%), p95 %s, limit %d",
				tt.best, best, bestP95, rate, 100*rate/best, p95, limit)
			if rate < tt.share*best || p95 > 2*bestP95 {
				t.Error("the limit doesn't fit the server")
			}
		})
	}
}

// A slow quarter of an hour on the server lowers the limit, and doesn't keep it
// down afterwards.
func TestLimitOutlivesASlowSpell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		began := time.Now()
		s := newStation(16, always(0), func() time.Duration {
			if d := time.Since(began); d > time.Minute && d < 5*time.Minute {
				return 800 * time.Millisecond
			}
			return 80 * time.Millisecond
		})
		s.attach(f)
		c := f.client(t, func(cfg *Config) { cfg.InFlight = 64 })
		// 200/s for a minute, 20/s for four, then 200/s again.
		n := 200*60 + 20*240 + 200*60
		took := lot(t, c, 100, n)
		t.Logf("%s, limit %d", took, c.Stats().Limit)
		if ideal := 6 * time.Minute; took > ideal+ideal/20 {
			t.Errorf("took %s, ideal is %s", took, ideal)
		}
	})
}

// 503 and timeouts halve the limit once, not once for each request in flight.
func TestOverloadHalvesOnce(t *testing.T) {
	l := newLimiter(64)
	l.set(64)
	now, epoch := time.Now(), l.epoch
	for range 64 {
		l.overloaded(now, epoch)
	}
	if l.now != 32 {
		t.Errorf("limit %d", l.now)
	}
}
