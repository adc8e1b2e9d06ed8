package sandbox

import (
	"slices"
	"sync"
	"time"
)

// Plan is a list of rules. The first one that applies to a call decides.
type Plan []Rule

// Rule says what happens to which calls, and when. A rule counts only the calls
// that it is about, and its time runs from the first of them.
type Rule struct {
	Ops []Op // the calls that it is about; none: all of the management API

	// It begins after so many calls, or after that time. Neither: at once.
	AfterCalls int
	AfterTime  time.Duration
	// It lasts for so many calls, or for that time, from then on. Neither: for
	// ever.
	Calls int
	Time  time.Duration
	// While it lasts, it strikes each call, every so many calls, or a share of
	// them (0 to 1; 0 is all).
	Every int
	Share float64

	Fault      Fault
	Status     int           // of FaultAnswer and FaultAnswerStored
	RetryAfter int           // seconds, of the same; 0: no header
	Delay      time.Duration // of the stalls and FaultSlow
}

// ruleState is how far a rule has come.
type ruleState struct {
	calls   int       // that it was about
	first   time.Time // the first of them
	lasted  int       // calls since it began
	started time.Time // when it began; zero before
}

// planned is a plan at work.
type planned struct {
	mu    sync.Mutex
	rules []ruleState // guarded by mu; one for each rule of the plan
}

// draw returns what the plan has for the next call of op.
func (p *planned) draw(in *injector, op Op, now time.Time) effect {
	if len(p.rules) == 0 {
		return effect{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.rules {
		rule := &in.faults.Plan[i]
		if len(rule.Ops) > 0 && !slices.Contains(rule.Ops, op) {
			continue
		}
		e := rule.effect().on(op)
		if e.kind != FaultNone && p.rules[i].strikes(rule, in, now) {
			return e
		}
	}
	return effect{}
}

// strikes counts a call that the rule is about and says whether it is struck.
func (s *ruleState) strikes(rule *Rule, in *injector, now time.Time) bool {
	if s.calls == 0 {
		s.first = now
	}
	s.calls++
	if s.calls <= rule.AfterCalls || now.Sub(s.first) < rule.AfterTime {
		return false
	}
	if s.lasted == 0 {
		s.started = now
	}
	s.lasted++
	switch {
	case rule.Calls > 0 && s.lasted > rule.Calls,
		rule.Time > 0 && now.Sub(s.started) >= rule.Time,
		rule.Every > 1 && s.lasted%rule.Every != 0,
		rule.Share > 0 && in.next() >= rule.Share:
		return false
	}
	return true
}

func (r *Rule) effect() effect {
	return effect{kind: r.Fault, status: r.Status, retryAfter: r.RetryAfter, delay: r.Delay}
}
