package mender

import (
	"math"
	"time"
)

const (
	// When a quota has been measured the same twice, a higher one is looked
	// for after raiseSettled, and after twice as long each time that even the
	// smallest step was refused; before that, after raiseUnsettled.
	raiseSettled   = 10 * time.Minute
	raiseMost      = time.Hour
	raiseUnsettled = 10 * time.Second
	// raiseWorth is the most time that 60 requests at a rate are waited for
	// before it counts as held.
	raiseWorth = 2 * time.Minute
	// raiseStep is how much more is tried at first. It doubles with each raise
	// that is not refused, and is halved for the next time if the first was.
	raiseStep  = 0.05
	raiseLeast = 0.01
	// paceSlack is how far behind its schedule the pacer may catch up, so
	// that timers that fire late don't lower the rate.
	paceSlack = 20 * time.Millisecond
	// paceFine is the rate per second from which on a late timer matters.
	paceFine = 20
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
	rate    float64       // per second; 0: no quota met
	next    time.Time     // when the next request may go
	opened  time.Time     // the last refill; zero before the first request
	answers int           // answered since then
	told    bool          // the span was named by the server
	empty   bool          // the quota is used up; reopen measures it
	span    time.Duration // between the last two refills that were seen
	taken   time.Time     // when the last request went out

	// The search for a higher quota.
	settled bool          // the last measurement agreed with what was believed
	raised  time.Time     // when rate was measured or raised
	raises  int           // since it was measured
	held    float64       // the rate before the last raise
	climb   float64       // by how much the next first raise goes up, as a share
	step    float64       // by how much the next raise goes up
	patient time.Duration // when settled, the time to the next first raise
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
	oldest := now
	if p.rate > paceFine {
		oldest = now.Add(-paceSlack)
	}
	if from.Before(oldest) {
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

// refused notes that the quota is used up, and whether the server has said for
// how long.
func (p *pacer) refused(told bool) { p.empty, p.told = true, told }

// reopen is called when a trial that went out at that time was answered. It
// reports whether there is a quota whose rate has changed noticeably.
func (p *pacer) reopen(at time.Time) bool {
	p.taken = at
	if !p.empty || p.answers <= 1 {
		// The pause had another reason, or nothing but the trial was answered
		// since the last one: nothing was measured. Begin here.
		p.opened, p.answers, p.empty = at, 1, false
		return false
	}
	believed := p.rate
	p.learn(at.Sub(p.opened))
	p.opened, p.answers, p.empty = at, 1, false
	p.raised = at
	p.next = at
	p.schedule(at)
	return math.Abs(p.rate-believed) > 0.1*believed
}

// learn sets the rate after the time from one refill to the next. What was
// answered in it is a lower bound after a raise, because some of it went out at
// the rate before; that rate had been held without being refused.
func (p *pacer) learn(span time.Duration) {
	answers := p.answers - 1 // the trial's own answer belongs to the next refill
	measured := float64(answers) / max(span.Seconds(), 1e-3)
	p.span = span
	switch p.raises {
	case 0:
		p.settled = math.Abs(measured-p.rate) < 0.05*p.rate
		p.rate, p.climb, p.patient = measured, raiseStep, raiseSettled
	case 1: // this much is not to be had
		p.settled = true
		p.rate = max(measured, p.held)
		if p.climb == raiseLeast { // as near as it gets
			p.patient = min(2*p.patient, raiseMost)
		}
		p.climb = max(p.climb/2, raiseLeast)
	default: // there was room, but not for the last step
		p.settled = false
		p.rate, p.climb, p.patient = max(measured, p.held), raiseStep, raiseSettled
	}
	p.raises, p.step = 0, p.climb
}

// maybeRaise looks for a higher quota once in a while.
func (p *pacer) maybeRaise(now time.Time) {
	every := raiseUnsettled
	if p.settled && p.raises == 0 {
		every = p.patient
	}
	// A rate must have had the time to be refused: a window, as far as we know.
	window := min(p.span, raiseSettled)
	if p.told {
		window = min(p.span, raiseMost)
	}
	every = max(every, window, min(time.Duration(60*float64(time.Second)/max(p.rate, 1e-3)), raiseWorth))
	if now.Sub(p.raised) < every {
		return
	}
	p.held = p.rate
	p.rate *= 1 + p.step
	p.step = min(2*p.step, 1)
	p.raises++
	p.raised = now
}
