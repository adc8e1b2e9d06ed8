package allocation

import (
	"cmp"
	"slices"
)

// span is a range of numbers, both ends included.
type span struct{ First, Last uint64 }

// picker finds free numbers in ranges of a space.
type picker struct {
	name   string // for messages
	space  string
	ranges []span
	used   []span // granted already
	held   []span // by devices of the ledger, each identifier one span, sorted
	unit   uint64 // consecutive numbers that a device takes
	align  uint64 // a device's first number is a multiple of it
}

// pick takes count units from the lowest free numbers, range by range. It
// returns nil if they do not fit, how many units are free after (or, then, in
// all), and how many identifiers that are held but not granted it passed over.
func (p *picker) pick(count uint64) (picked []span, left, passed uint64) {
	granted := slices.Clone(p.used)
	sortSpans(granted)
	p.used = append(p.used, p.held...)
	sortSpans(p.used)
	for _, r := range p.ranges {
		for _, gap := range p.gaps(r) {
			units := (gap.Last - gap.First + 1) / p.unit
			take := min(units, count)
			if take > 0 {
				picked = append(picked, span{gap.First, gap.First + take*p.unit - 1})
			}
			count -= take
			left += units - take
		}
	}
	if count > 0 {
		for _, s := range picked {
			left += (s.Last - s.First + 1) / p.unit
		}
		return nil, left, 0
	}
	return picked, left, p.passed(granted, picked[len(picked)-1].Last)
}

// passed counts the held identifiers of the ranges up to the one that holds
// last, those after it and those that were granted left out.
func (p *picker) passed(granted []span, last uint64) (n uint64) {
	for _, r := range p.ranges {
		end := r.Last
		if r.First <= last && last <= r.Last {
			end = last
		}
		for _, h := range p.held {
			if h.First < r.First || h.First > end {
				continue
			}
			i, _ := slices.BinarySearchFunc(granted, h.First, func(g span, first uint64) int { return cmp.Compare(g.First, first+1) })
			if i == 0 || granted[i-1].Last < h.First {
				n++
			}
		}
		if end != r.Last {
			break
		}
	}
	return n
}

func sortSpans(s []span) {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.First, b.First) })
}

// unique sorts spans and leaves out those that occur twice.
func unique(s []span) []span {
	sortSpans(s)
	return slices.Compact(s)
}

// gaps returns what is not used of a range, aligned; p.used is sorted.
func (p *picker) gaps(r span) []span {
	var gaps []span
	add := func(first, end uint64) { // end not included
		first = (first + p.align - 1) / p.align * p.align
		if first < end {
			gaps = append(gaps, span{first, end - 1})
		}
	}
	next := r.First
	for _, u := range p.used {
		if u.Last < next {
			continue
		}
		if u.First > r.Last {
			break
		}
		if u.First > next {
			add(next, u.First)
		}
		next = u.Last + 1
	}
	if next <= r.Last {
		add(next, r.Last+1)
	}
	return gaps
}

func (p *picker) remedy() string {
	if p.space == MACSpace {
		return "add a block of addresses, or allow those of undone lots to be used again (--reuse); nothing was allocated"
	}
	return "give the sequence more digits, or allow numbers of undone lots to be used again (--reuse); nothing was allocated"
}

// cursor walks over the numbers of spans.
type cursor struct {
	spans []span
	off   uint64
}

// next returns the next number and moves on by step.
func (c *cursor) next(step uint64) uint64 {
	s := c.spans[0]
	v := s.First + c.off
	c.off += step
	if s.First+c.off > s.Last {
		c.spans, c.off = c.spans[1:], 0
	}
	return v
}
