package upkeep

import (
	"testing"
	"time"
)

// TestAge: time that the ledger didn't see pass makes no lot old.
func TestAge(t *testing.T) {
	day := 24 * time.Hour
	now := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	nightly := func(from time.Time, n int) (seen []time.Time) {
		for i := range n {
			seen = append(seen, from.Add(time.Duration(i)*day))
		}
		return seen
	}
	for name, tt := range map[string]struct {
		seen   []time.Time
		closed time.Time
		want   time.Duration
	}{
		"a lot every night":                  {nightly(now.Add(-90*day), 90), now.Add(-90 * day), 90 * day},
		"last night":                         {nightly(now.Add(-8*time.Hour), 1), now.Add(-8 * time.Hour), 8 * time.Hour},
		"the clock was a year behind":        {nightly(now.Add(-365*day), 1), now.Add(-365 * day), maxGap},
		"and lots were made since, too":      {append(nightly(now.Add(-365*day), 1), nightly(now.Add(-2*day), 2)...), now.Add(-365 * day), maxGap + 2*day},
		"the clock was a year ahead":         {nightly(now.Add(365*day), 1), now.Add(365 * day), 0},
		"the clock is a year ahead just now": {nightly(now.Add(-366*day), 2), now.Add(-366 * day), day + maxGap},
	} {
		if got := age(tt.seen, tt.closed, now); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}
