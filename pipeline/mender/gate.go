package mender

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"keymill/pipeline"
)

const (
	// tripAfter is how many attempts must fail in a row before the server is
	// taken to be down.
	tripAfter = 10
	// A server that is down is tried again after pauses between these.
	pauseFirst = 250 * time.Millisecond
	pauseMost  = 5 * time.Second
	// quotaPauseFirst and quotaPauseMost bound the pause after a 429 without
	// Retry-After.
	quotaPauseFirst = time.Second
	quotaPauseMost  = time.Minute
	// shutMost is the longest wait without a trial, whatever Retry-After says:
	// an hour named by mistake must not cost an hour.
	shutMost = 5 * time.Minute
	// downGap without a failure ends the time that counts for giving up: nobody
	// has asked meanwhile.
	downGap = shutMost + 2*time.Minute
	// toldLeast bounds a pause that the server has named from below; it doubles
	// while the server goes on refusing, so that Retry-After: 0 is no busy loop.
	toldLeast = 50 * time.Millisecond
)

// outcomeKind is what an attempt says about the server.
type outcomeKind int

const (
	outAlive    outcomeKind = iota // it answered; its latency counts
	outAnswered                    // it answered, but not by doing any work
	outQuota                       // 429
	outFailed                      // no answer, or one that says that it isn't well
	outAborted                     // our caller has gone: nothing learned
)

type outcome struct {
	kind     outcomeKind
	overload bool // outFailed: 503 or a timeout, which fewer in flight may heal
	told     bool // there was a Retry-After of `after`
	after    time.Duration
	err      error
}

// pass is the permission to send one request. Who has it must leave.
type pass struct {
	started time.Time
	epoch   uint32 // of the limiter: a sample counts for the limit it was taken under
	gen     uint32 // of the gate: an answer to a request from before a pause says nothing new
	trial   bool   // the one request that tries whether a pause is over
}

// ticket is a place in the queue before the gate.
type ticket struct {
	ready chan struct{} // closed when pass or err is set
	pass  pass
	err   error
}

// gate lets requests out, in the order in which they came. Behind it are all
// limits of the conversation: how many are in flight, how many a minute, and
// whether anybody may ask at all now.
//
// After a 429, a 503 with Retry-After or tripAfter failures in a row it is
// shut for everybody. When the pause is over one request goes out as a trial;
// its answer opens the gate or makes the next pause.
type gate struct {
	giveUp time.Duration
	log    *slog.Logger

	mu       sync.Mutex // guards all below
	queue    list.List  // of *ticket
	inFlight int
	limit    limiter
	pace     pacer
	timer    *time.Timer // calls wake; nil until it is needed
	gen      uint32      // counts the pauses
	shut     time.Time   // nobody passes before; zero when open
	trying   bool        // the gate was shut and no trial has succeeded since
	trialOut bool        // the trial is under way
	fails    int         // attempts failed in a row
	quotas   int         // 429 in a row
	pauses   int         // pauses since the last good answer
	since    time.Time   // of the first failure since the last good answer
	failedAt time.Time   // of the last failure
	pausedAt time.Time   // of the first pause since the last good answer
	quotaDue time.Time   // when the quota should have been refilled
	cause    error       // of the last failure
	known    bool        // the server has answered as a Mender server does
	served   uint64      // how often it has
	counts   counters
}

func newGate(inFlight int, giveUp time.Duration, log *slog.Logger) *gate {
	return &gate{giveUp: giveUp, log: log, limit: newLimiter(inFlight)}
}

// share bounds the requests in flight from now on.
func (g *gate) share(most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit.most = max(most, 1)
	g.limit.set(g.limit.now)
	g.pump(time.Now())
}

// enter waits until a request may go out. Its error is ctx.Err() or, when the
// server has been down for too long, an *pipeline.Outage.
func (g *gate) enter(ctx context.Context) (pass, error) {
	g.mu.Lock()
	now := time.Now()
	if g.queue.Len() == 0 {
		if ok, _ := g.admissible(now); ok {
			p := g.admit(now)
			g.mu.Unlock()
			return p, nil
		}
	}
	t := &ticket{ready: make(chan struct{})}
	place := g.queue.PushBack(t)
	g.pump(now)
	g.mu.Unlock()
	select {
	case <-t.ready:
		return t.pass, t.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	select {
	case <-t.ready: // admitted at the same moment
		g.mu.Unlock()
		if t.err == nil {
			g.leave(t.pass, outcome{kind: outAborted})
		}
	default:
		g.queue.Remove(place)
		g.mu.Unlock()
	}
	return pass{}, ctx.Err()
}

// admissible says whether a request may go now, and if only time is lacking,
// how much of it.
func (g *gate) admissible(now time.Time) (bool, time.Duration) {
	if wait := g.shut.Sub(now); wait > 0 {
		return false, wait
	}
	if g.trialOut || g.inFlight >= g.limit.now {
		return false, 0
	}
	if g.trying {
		return true, 0
	}
	wait := g.pace.wait(now)
	return wait <= 0, wait
}

func (g *gate) admit(now time.Time) pass {
	p := pass{started: now, epoch: g.limit.epoch, gen: g.gen, trial: g.trying}
	if g.trying {
		g.trialOut = true
	} else {
		g.pace.take(now)
	}
	g.inFlight++
	g.limit.busy(g.inFlight)
	return p
}

// pump lets in whoever may go, first come first served.
func (g *gate) pump(now time.Time) {
	for first := g.queue.Front(); first != nil; first = g.queue.Front() {
		ok, wait := g.admissible(now)
		if !ok {
			if wait > 0 {
				g.wakeIn(wait)
			}
			return
		}
		t := g.queue.Remove(first).(*ticket)
		t.pass = g.admit(now)
		close(t.ready)
	}
}

func (g *gate) wakeIn(d time.Duration) {
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.wake)
		return
	}
	g.timer.Reset(d)
}

func (g *gate) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pump(time.Now())
}

// leave gives the pass back with what was learned. It reports whether the
// server has been down for so long that it isn't worth going on.
func (g *gate) leave(p pass, out outcome) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.inFlight--
	if p.trial {
		g.trialOut = false
	}
	over := false
	switch out.kind {
	case outAlive:
		g.alive(now, p)
	case outAnswered:
		g.answered(now, p)
	case outQuota:
		over = g.quota(now, p, out)
	case outFailed:
		over = g.failed(now, p, out)
	}
	if over {
		g.dismiss()
	}
	g.pump(now)
	return over
}

func (g *gate) alive(now time.Time, p pass) {
	g.known = true
	g.served++
	g.counts.answered(now)
	g.pace.answered(p.gen == g.gen)
	g.limit.sample(now, p.epoch, now.Sub(p.started))
	g.answered(now, p)
}

// answered ends the pause if it was the trial.
func (g *gate) answered(now time.Time, p pass) {
	if g.trying && !p.trial {
		return // sent before the pause
	}
	g.fails, g.quotas, g.pauses, g.cause = 0, 0, 0, nil
	g.since, g.quotaDue = time.Time{}, time.Time{}
	if !p.trial {
		return
	}
	g.trying, g.shut = false, time.Time{}
	g.log.Info("the server answers again; going on", "after", now.Sub(g.pausedAt).Round(time.Millisecond))
	if g.pace.reopen(p.started) {
		g.log.Info("the server has a quota; keeping to it", "per_minute", 60*g.pace.rate)
	}
}

func (g *gate) quota(now time.Time, p pass, out outcome) bool {
	g.counts.quotas++
	g.known = true
	if p.gen != g.gen {
		if out.told {
			g.shutUntil(now.Add(min(out.after, shutMost)))
		}
		return false
	}
	g.cause = out.err
	g.quotas++
	wait := told(out.after, g.quotas)
	if !out.told {
		wait = spread(min(quotaPauseMost, quotaPauseFirst<<min(g.quotas-1, 10)))
	}
	if g.quotaDue.IsZero() {
		g.quotaDue = now.Add(max(out.after, wait))
	}
	g.pace.refused(out.told)
	g.pause(now, wait)
	return now.Sub(g.quotaDue) >= g.giveUp
}

func (g *gate) failed(now time.Time, p pass, out outcome) bool {
	g.counts.failures++
	g.cause = out.err
	if g.since.IsZero() || now.Sub(g.failedAt) > downGap {
		g.since = now
	}
	g.failedAt = now
	if out.overload && p.gen == g.gen {
		g.limit.overloaded(now, p.epoch)
	}
	if p.gen == g.gen {
		g.fails++
		switch {
		case out.told:
			g.pause(now, told(out.after, g.fails))
		case p.trial || g.fails >= tripAfter:
			g.pause(now, spread(min(pauseMost, pauseFirst<<min(g.pauses, 10))))
		}
	}
	return now.Sub(g.since) >= g.giveUp
}

// pause shuts the gate for everybody; what is in flight comes home.
func (g *gate) pause(now time.Time, d time.Duration) {
	g.gen++
	g.pauses++
	g.trying = true
	g.shut = now.Add(d)
	if g.pauses == 1 {
		g.pausedAt = now
		g.log.Warn("server overloaded or down; pausing requests", "seconds", d.Seconds(), "cause", g.cause)
	}
}

func (g *gate) shutUntil(t time.Time) {
	if t.After(g.shut) {
		g.shut = t
	}
}

// dismiss sends everybody home who waits. Who comes later tries for himself.
func (g *gate) dismiss() {
	err := g.outageLocked()
	for first := g.queue.Front(); first != nil; first = g.queue.Front() {
		t := g.queue.Remove(first).(*ticket)
		t.err = err
		close(t.ready)
	}
}

func (g *gate) outage() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.outageLocked()
}

func (g *gate) outageLocked() error {
	err := errGiveUp
	if g.cause != nil {
		err = fmt.Errorf("%w (more than %s): %w", errGiveUp, g.giveUp, g.cause)
	}
	return &pipeline.Outage{Part: pipeline.PartServer, Err: err, Hint: errorHint(err)}
}

// servedSoFar returns how many requests the server has answered well.
func (g *gate) servedSoFar() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.served
}

// failingFor reports whether requests have failed for so long, without a good
// answer in between.
func (g *gate) failingFor(d time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.since.IsZero() && time.Since(g.since) >= d
}

// knowsServer reports whether a Mender server has answered here before.
func (g *gate) knowsServer() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known
}

// sent counts a request that goes out now.
func (g *gate) sent(again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts.requests++
	if again {
		g.counts.retries++
	}
}

// told bounds a pause that the server has named, at its n-th refusal in a row.
func told(after time.Duration, n int) time.Duration {
	return min(max(after, min(toldLeast<<min(n, 12), quotaPauseMost)), shutMost)
}

// spread returns between a half and all of d, so that stations that were
// stopped together don't come back together.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
