package mender

import (
	"slices"
	"time"
)

const (
	limitStart = 4
	// A window of samples is this long at least, so that its median means
	// something, and at most, so that it doesn't outlive the load it describes.
	windowLeast = 16
	windowMost  = 64
	// rebase is how often the latency of an unloaded server is measured again.
	rebase = 15 * time.Second
)

// limiter finds how many requests in flight the server has a use for.
//
// It compares the median latency of a window with that of an unloaded server:
// of now requests in flight, now * (1 - base/median) only queue (Little's
// law). Below a small queue it grows, above a larger one it shrinks, in
// between it stays: a queue of about a fifth keeps the server busy all the
// time and adds a fifth to the latency. Overload (503, timeouts) halves it.
// Once in a while it goes down to a half for one window, to see what the
// latency is without that queue. Not safe for concurrent use; the gate locks.
type limiter struct {
	now   int    // requests that may be in flight
	most  int    // never above
	fixed bool   // never changes (benchmarks)
	epoch uint32 // changes with now

	window  [windowMost]time.Duration
	n       int
	full    bool // now was reached in this window: it is what limits us
	base    time.Duration
	based   time.Time // when base was measured
	back    int       // where to go back to after measuring base; 0: not measuring
	rushing bool      // nothing has queued yet: double
}

func newLimiter(most int) limiter {
	return limiter{now: min(limitStart, most), most: most, rushing: true}
}

// busy notes how many are in flight.
func (l *limiter) busy(inFlight int) {
	if inFlight >= l.now {
		l.full = true
	}
}

// sample takes the latency of an answered request that went out in epoch.
func (l *limiter) sample(now time.Time, epoch uint32, took time.Duration) {
	if l.fixed || epoch != l.epoch {
		return
	}
	l.window[l.n] = took
	if l.n++; l.n >= min(max(windowLeast, l.now), windowMost) {
		l.close(now)
	}
}

// close draws the conclusion from a full window.
func (l *limiter) close(now time.Time) {
	samples := l.window[:l.n]
	slices.Sort(samples)
	median := max(samples[l.n/2], time.Microsecond)
	full := l.full
	l.n, l.full = 0, false
	switch {
	case l.back > 0:
		l.base, l.based = median, now
		l.set(l.back)
		l.back = 0
		return
	case l.base == 0 || median < l.base:
		l.base, l.based = median, now
	case !full:
		return // we ask for less than we may: the latency says nothing about now
	case now.Sub(l.based) > rebase:
		l.back = l.now
		l.rushing = false
		l.set(max(1, l.now/2))
		return
	}
	if full {
		l.adapt(median)
	}
}

func (l *limiter) adapt(median time.Duration) {
	ratio := float64(l.base) / float64(median)
	size := float64(l.now)
	queued := size * (1 - ratio)
	few, many := max(2, 0.15*size), max(4, 0.33*size)
	switch {
	case queued < few && l.rushing:
		l.set(2 * l.now)
	case queued < few:
		l.set(l.now + max(1, l.now/10))
	case queued > many:
		l.rushing = false
		l.set(int(max(0.7*size, size*ratio+few)))
	default:
		l.rushing = false
	}
}

// overloaded halves the limit, once for all requests that went out under it.
func (l *limiter) overloaded(_ time.Time, epoch uint32) {
	if l.fixed || epoch != l.epoch {
		return
	}
	l.rushing, l.back = false, 0
	l.set(l.now / 2)
}

func (l *limiter) set(to int) {
	to = min(max(to, 1), l.most)
	if to == l.now {
		return
	}
	l.now = to
	l.epoch++
	l.n, l.full = 0, false
}
