package reports

import (
	"time"

	"keymill/pipeline"
)

// Stats is what the events say about how a lot went. Its memory is bounded by
// the number of devices (8 bytes each), not of events.
type Stats struct {
	Released int
	Events   int

	taken   []int64 // by row: microseconds of the first staged event, 0 if none
	rate    rate
	latency [latencyBins]int // of staged to released
	retries [retryBins]int   // HTTP requests beyond the first, by preauthorized device
}

const (
	latencyBins = 16 // bin i holds latencies below 2^i milliseconds; the last holds the rest
	retryBins   = 6  // 0, 1, 2, 3, 4, more
)

// Point is a count in the interval that begins at Time.
type Point struct {
	Time  time.Time
	Count int
}

// add takes one event of the lot, in order of seq.
func (s *Stats) add(e *eventLine) {
	s.Events++
	switch e.Action {
	case pipeline.ActionStage:
		s.grow(e.Row)
		if e.Row >= 0 && e.Row < len(s.taken) && s.taken[e.Row] == 0 {
			s.taken[e.Row] = e.Time.UnixMicro()
		}
	case pipeline.ActionPreauthorize:
		s.retries[min(max(e.Requests-1, 0), retryBins-1)]++
	case pipeline.ActionRelease:
		s.Released++
		s.rate.add(e.Time.Unix())
		if e.Row >= 0 && e.Row < len(s.taken) && s.taken[e.Row] != 0 {
			s.latency[latencyBin(e.Time.UnixMicro()-s.taken[e.Row])]++
		}
	}
}

// maxRow bounds what a foreign event can make Stats allocate.
const maxRow = 1 << 26

func (s *Stats) grow(row int) {
	if row >= len(s.taken) && row < maxRow {
		s.taken = append(s.taken, make([]int64, row+1-len(s.taken))...)
	}
}

func latencyBin(micros int64) int {
	bin, bound := 0, int64(1000)
	for bin < latencyBins-1 && micros >= bound {
		bin++
		bound *= 2
	}
	return bin
}

// Rate returns the releases over time, at most rateBins points, without gaps.
func (s *Stats) Rate() []Point { return s.rate.points() }

// rateBins is how many points a plot over time has at most.
const rateBins = 120

// rate counts in intervals whose width doubles whenever there are too many, so
// that a second and a month both fit.
type rate struct {
	width       int64 // seconds; 0 before the first
	first, last int64 // intervals that have a count
	counts      map[int64]int
}

func (r *rate) add(second int64) {
	if r.width == 0 {
		*r = rate{1, second, second, map[int64]int{}}
	}
	k := second / r.width
	r.counts[k]++
	r.first, r.last = min(r.first, k), max(r.last, k)
	for r.last-r.first >= rateBins {
		wider := make(map[int64]int, len(r.counts))
		for k, n := range r.counts {
			wider[k/2] += n
		}
		r.counts, r.width = wider, r.width*2
		r.first, r.last = r.first/2, r.last/2
	}
}

func (r *rate) points() []Point {
	var points []Point
	for k := r.first; r.width > 0 && k <= r.last; k++ {
		points = append(points, Point{time.Unix(k*r.width, 0).UTC(), r.counts[k]})
	}
	return points
}
