package operator

import (
	"math"
	"slices"
	"time"
)

// shift counts what one operator's shift, or that of several after each other, has
// done since it began.
type shift struct {
	began    time.Time
	made     int
	first    int // made, with neither a reprint nor an earlier failure
	failed   map[string]int
	reprints int
	troubled map[int]bool // rows that had a failure or a reprint in this shift
	cycles   *cycles
	by       map[string]*tally // by operator
	slots    map[string]*tally
}

// tally counts one operator's or one slot's units.
type tally struct {
	Made, Failed int
	cycles       *cycles
}

func newShift(now time.Time) *shift {
	return &shift{began: now, failed: map[string]int{}, troubled: map[int]bool{}, cycles: &cycles{}, by: map[string]*tally{}, slots: map[string]*tally{}}
}

func (s *shift) tallies(u *Unit) []*tally {
	var out []*tally
	for _, at := range []struct {
		m    map[string]*tally
		name string
	}{{s.by, u.Operator}, {s.slots, u.Slot}} {
		if at.m[at.name] == nil {
			at.m[at.name] = &tally{cycles: &cycles{}}
		}
		out = append(out, at.m[at.name])
	}
	return out
}

// pass counts a confirmed unit, and how long it took from its scan.
func (s *shift) pass(u *Unit, took time.Duration) {
	s.made++
	if !s.troubled[u.Record.Row] {
		s.first++
	}
	s.cycles.add(took)
	for _, t := range s.tallies(u) {
		t.Made++
		t.cycles.add(took)
	}
}

func (s *shift) fail(u *Unit, code string) {
	s.failed[code]++
	s.troubled[u.Record.Row] = true
	for _, t := range s.tallies(u) {
		t.Failed++
	}
}

// yield is the share of finished units that passed at once, in percent; 100 before
// there are any.
func (s *shift) yield() float64 {
	failed := 0
	for _, n := range s.failed {
		failed += n
	}
	if s.made+failed == 0 {
		return 100
	}
	return 100 * float64(s.first) / float64(s.made+failed)
}

// cycles keeps the latest cycle times. Its memory is bounded, so that a shift of
// any length costs the same.
type cycles struct {
	last [512]time.Duration
	n    int // all that were added
	sum  time.Duration
}

func (c *cycles) add(d time.Duration) {
	c.last[c.n%len(c.last)] = d
	c.n++
	c.sum += d
}

// quantile returns the p-quantile of the latest cycle times, 0 where there are
// none.
func (c *cycles) quantile(p float64) time.Duration {
	have := slices.Clone(c.last[:min(c.n, len(c.last))])
	if len(have) == 0 {
		return 0
	}
	slices.Sort(have)
	at := int(math.Ceil(p*float64(len(have)))) - 1
	return have[max(at, 0)]
}
