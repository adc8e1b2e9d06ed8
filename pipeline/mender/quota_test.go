package mender

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keymill/pipeline"
)

// quota is a gateway's rule: it says whether a request passes now, and if not,
// when it is worth asking again (0: it doesn't say).
type quota func(now time.Time) (bool, time.Duration)

// fixedWindow allows n requests in each window; the first has begun `into` ago.
func fixedWindow(n int, window, into time.Duration, tell bool) quota {
	var opened time.Time
	used := 0
	return func(now time.Time) (bool, time.Duration) {
		if opened.IsZero() {
			opened = now.Add(-into)
		}
		for now.Sub(opened) >= window {
			opened, used = opened.Add(window), 0
		}
		if used < n {
			used++
			return true, 0
		}
		if !tell {
			return false, 0
		}
		return false, window - now.Sub(opened)
	}
}

// tokenBucket allows rate requests a second, and burst at once.
func tokenBucket(rate, burst float64) quota {
	tokens := burst
	var last time.Time
	return func(now time.Time) (bool, time.Duration) {
		if !last.IsZero() {
			tokens = min(burst, tokens+now.Sub(last).Seconds()*rate)
		}
		last = now
		if tokens >= 1 {
			tokens--
			return true, 0
		}
		return false, time.Duration((1 - tokens) / rate * float64(time.Second))
	}
}

// limit makes the fake answer 429 as a gateway does, before any work.
func (f *fake) obey(q quota) {
	var mu sync.Mutex
	f.fault = func(r *fakeRequest) (*http.Response, error) {
		if r.after {
			return nil, nil
		}
		mu.Lock()
		defer mu.Unlock()
		ok, wait := q(time.Now())
		if ok {
			return nil, nil
		}
		resp := failure(http.StatusTooManyRequests, "too many requests")
		if wait > 0 {
			resp.Header.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		}
		return resp, nil
	}
}

// lot preauthorizes n devices with so many workers and returns how long it took.
func lot(t *testing.T, c *Client, workers, n int) time.Duration {
	t.Helper()
	spki, _ := newKey(t)
	began := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				id := pipeline.Identity{{Name: "serial", Value: strconv.Itoa(i)}}
				if _, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: id, SPKI: spki}); err != nil {
					t.Errorf("device %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// A quota is served as it is, without wasted requests: twelve hours of a lot,
// within 2 % of the ideal schedule.
func TestQuotaBoundLot(t *testing.T) {
	tests := []struct {
		name   string
		quota  quota
		rate   float64 // per second, the ideal
		hours  float64
		burst  float64 // what passes at once; 0 where that would be asking for more than a window early
		wasted float64 // most refused requests, as a share
		late   float64 // most lateness, as a share of the ideal
	}{
		{"fixed window", fixedWindow(30, time.Minute, 0, true), 0.5, 12, 30, 0.01, 0.02},
		{"fixed window, met in its middle", fixedWindow(30, time.Minute, 40*time.Second, true), 0.5, 4, 60, 0.01, 0.02},
		{"fixed window, no Retry-After", fixedWindow(30, time.Minute, 0, false), 0.5, 12, 30, 0.01, 0.03},
		{"1000 an hour", fixedWindow(1000, time.Hour, 0, true), 1000.0 / 3600, 12, 0, 0.02, 0.02},
		{"token bucket", tokenBucket(0.5, 30), 0.5, 4, 30, 0.01, 0.02},
		{"token bucket without burst", tokenBucket(0.3, 1), 0.3, 12, 1, 0.01, 0.02},
		{"120 a minute", fixedWindow(120, time.Minute, 0, true), 2, 1, 120, 0.01, 0.03},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.latency = 5 * time.Millisecond
				f.obey(tt.quota)
				c := f.client(t)
				n := int(tt.rate * tt.hours * 3600)
				took := lot(t, c, 64, n)
				ideal := time.Duration((float64(n) - tt.burst) / tt.rate * float64(time.Second))
				s := c.Stats()
				t.Logf("%d devices in %s, ideal %s (%+.2f %%); %d refused; rate believed %.3f/s, seen %.2f/s",
					n, took.Round(time.Second), ideal, 100*(took.Seconds()/ideal.Seconds()-1), s.Refused, s.Quota, s.Rate)
				if took.Seconds() > (1+tt.late)*ideal.Seconds() {
					t.Errorf("took %s, ideal is %s", took, ideal)
				}
				if float64(s.Refused) > tt.wasted*float64(n) {
					t.Errorf("%d of %d requests were wasted", s.Refused, s.Requests)
				}
			})
		})
	}
}
