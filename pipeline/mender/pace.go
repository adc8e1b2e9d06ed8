package mender

import (
	"math"
	"time"
)

const (
	// When a quota has been measured the same twice, a higher one is looked
	// for this often; before that, more often.
	raiseSettled   = 10 * time.Minute
	raiseUnsettled = 10 * time.Second
	// raiseStep is how much more is tried at first; it doubles with each
	// raise that is not refused.
	raiseStep = 0.05
	// paceSlack is how far behind its schedule the pacer may catch up, so
	// that timers that fire late don't lower the rate.
	paceSlack = 20 * time.Millisecond
	// paceIdle without a request ends a measurement: what wasn't asked for
	// can't have been refused.
	paceIdle = time.Minute
)

// pacer keeps to a quota of requests per time. The quota is measured: what was
// answered from one refill to the next, divided by the time between them. That
// holds for fixed windows, for sliding ones and for token buckets; requests
// that are evenly spaced at that rate are refused by none of them. So after
// the first window a quota costs no refused requests, but for the few by which
// a higher quota is looked for.
type pacer struct {
	rate    float64   // per second; 0: no quota met
	next    time.Time // when the next request may go
	opened  time.Time // the last refill; zero before the first request
	answers int       // answered since then
	empty   bool      // the quota is used up; reopen measures it
	settled bool      // two measurements agreed
	taken   time.Time // when the last request went out
	raised  time.Time // when rate was measured or raised
	step    float64
}

// wait returns how long the next request has to wait.
func (p *pacer) wait(now time.Time) time.Duration {
	if p.rate == 0 {
		return 0
	}
	p.maybeRaise(now)
	return p.next.Sub(now)
}

// take notes that a request goes out.
func (p *pacer) take(now time.Time) {
	if p.opened.IsZero() || now.Sub(p.taken) > paceIdle {
		p.opened, p.answers = now, 0
	}
	p.taken = now
	if p.rate > 0 {
		p.schedule(now)
	}
}

func (p *pacer) schedule(now time.Time) {
	from := p.next
	if oldest := now.Add(-paceSlack); from.Before(oldest) {
		from = oldest
	}
	p.next = from.Add(time.Duration(float64(time.Second) / p.rate))
}

// answered notes an answer that the quota was spent on. Answers to requests
// from before the pause belong to the refill before.
func (p *pacer) answered(current bool) {
	if current || p.empty {
		p.answers++
	}
}

// refused notes that the quota is used up.
func (p *pacer) refused() { p.empty = true }

// reopen is called when a trial that went out at that time was answered. It
// reports whether there is a quota whose rate has changed noticeably.
func (p *pacer) reopen(at time.Time) bool {
	p.taken = at
	if !p.empty {
		// The pause had another reason. Nothing is known of its time, so the
		// next measurement begins here.
		p.opened, p.answers = at, 1
		return false
	}
	before := p.rate
	answers := max(p.answers-1, 1) // the trial's own answer belongs to the next refill
	if span := at.Sub(p.opened); span > 0 {
		p.rate = float64(answers) / span.Seconds()
	}
	p.settled = before > 0 && math.Abs(p.rate-before) < 0.05*before
	p.opened, p.answers, p.empty = at, 1, false
	p.raised, p.step = at, raiseStep
	p.next = at
	p.schedule(at)
	return math.Abs(p.rate-before) > 0.1*before
}

// maybeRaise looks for a higher quota once in a while.
func (p *pacer) maybeRaise(now time.Time) {
	every := raiseUnsettled
	if p.settled && p.step == raiseStep {
		every = raiseSettled
	}
	// A raise must have had the time to be refused.
	every = max(every, time.Duration(60*float64(time.Second)/max(p.rate, 1e-3)))
	if now.Sub(p.raised) < every {
		return
	}
	p.rate *= 1 + p.step
	p.step = min(2*p.step, 1)
	p.raised = now
}
