package sources

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
	used   []span
	unit   uint64 // consecutive numbers that a device takes
	align  uint64 // a device's first number is a multiple of it
}

// pick takes count units from the lowest free numbers, range by range. It
// returns nil if they do not fit, and how many units are free after (or, then,
// in all).
func (p *picker) pick(count uint64) (picked []span, left uint64) {
	slices.SortFunc(p.used, func(a, b span) int { return cmp.Compare(a.First, b.First) })
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
		return nil, left
	}
	return picked, left
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
