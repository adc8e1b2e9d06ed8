package mender

import (
	"math"
	"slices"
	"time"
)

const (
	// limitStart is where a conversation begins, and the least that latency
	// alone brings it down to: so few are never the reason for a queue.
	limitStart = 4
	// A window has this many samples at least. It is doubled until its mean
	// is known to windowSure (relative standard error), or windowMost is full.
	windowLeast = 16
	windowMost  = 256
	windowSure  = 0.03
	// queueNone is the latency up to which no queue is worth avoiding: CoDel's
	// target for a standing queue (RFC 8289, 4.3). A server this near answers
	// within microseconds, and what it takes longer when this machine is busy
	// says nothing about the server.
	queueNone = 5 * time.Millisecond
	// rebase is how often the latency of an unloaded server is measured again.
	rebase = 15 * time.Second
)

// limiter finds how many requests in flight the server has a use for.
//
// It compares the typical latency of a window with that of an unloaded server:
// of now requests in flight, now * (1 - base/typical) only queue (Little's
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
	wanted  int       // samples until the window is looked at
	opened  time.Time // of the window's first sample
	full    bool      // now was reached in this window: it is what limits us
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
	if l.n == 0 {
		l.opened, l.wanted = now, min(max(windowLeast, l.now), windowMost)
	}
	if l.n < windowMost {
		l.window[l.n] = took
		l.n++
	}
	if l.n >= l.wanted {
		l.look(now)
	}
}

// look closes the window if enough is known. The first answers after a change
// are those of the fast requests, so some latencies must pass as well.
func (l *limiter) look(now time.Time) {
	samples := l.window[:l.n]
	slices.Sort(samples)
	typical := max(trimmedMean(samples), time.Microsecond)
	if l.n < windowMost && now.Sub(l.opened) < 2*typical {
		l.wanted = min(l.n+windowLeast, windowMost)
		return
	}
	// For a normal distribution, sigma is the quartiles' distance / 1.35.
	quartiles := samples[l.n*3/4] - samples[l.n/4]
	unsure := float64(quartiles) / 1.35 / float64(typical) / math.Sqrt(float64(l.n))
	enough := windowMost
	if l.rushing { // at first it is more important to be quick than to be sure
		enough = min(windowMost, 4*l.now)
	}
	if unsure > windowSure && l.n < enough {
		l.wanted = min(2*l.n, windowMost)
		return
	}
	l.close(now, typical, unsure)
}

// trimmedMean is the mean without the slowest tenth: a pause of the garbage
// collector somewhere is no queue. (The median would not see a queue before it
// holds half of the requests.)
func trimmedMean(sorted []time.Duration) time.Duration {
	kept := sorted[:len(sorted)-len(sorted)/10]
	sum := time.Duration(0)
	for _, d := range kept {
		sum += d
	}
	return sum / time.Duration(len(kept))
}

// close draws the conclusion from a full window.
func (l *limiter) close(now time.Time, typical time.Duration, unsure float64) {
	full := l.full
	l.n, l.full = 0, false
	switch {
	case l.back > 0:
		l.base, l.based = typical, now
		l.set(l.back)
		l.back = 0
		return
	case l.base == 0 || float64(typical) < float64(l.base)*(1-2*unsure):
		l.base, l.based = typical, now
	case !full:
		return // we ask for less than we may: the latency says nothing about now
	case now.Sub(l.based) > rebase:
		l.back = l.now
		l.rushing = false
		l.set(max(1, l.now/2))
		return
	}
	if full {
		l.adapt(min(1, float64(max(l.base, queueNone))/float64(typical)), unsure)
	}
}

// adapt moves the limit by the ratio of the unloaded latency to the present one.
func (l *limiter) adapt(ratio, unsure float64) {
	size := float64(l.now)
	few, many := max(2, 0.15*size), max(4, 0.33*size)
	queued := size * (1 - ratio*(1+2*unsure)) // at least
	switch {
	case queued < few && l.rushing:
		l.set(2 * l.now)
	case queued < few:
		l.set(l.now + max(1, l.now/10))
	case queued > many:
		l.rushing = false
		l.set(int(max(limitStart, 0.7*size, size*ratio+few)))
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
