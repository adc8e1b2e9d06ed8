package mender

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLeft(t *testing.T) {
	tests := []struct {
		stats Stats
		want  time.Duration
	}{
		{Stats{}, 0},
		{Stats{Rate: 50}, 20 * time.Second},
		{Stats{Rate: 50, Quota: 100}, 20 * time.Second},
		{Stats{Rate: 50, Quota: 10}, 100 * time.Second},
		{Stats{Rate: 0.2, Quota: 0.5}, 2000 * time.Second},
		{Stats{Quota: 0.5}, 2000 * time.Second},
	}
	for _, tt := range tests {
		if got := tt.stats.Left(1000); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.stats, got, tt.want)
		}
	}
}

// Rate is that of the last ten seconds, and forgets a pause.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counters
		if got := c.rate(time.Now()); got != 0 {
			t.Errorf("%v before anything", got)
		}
		for range 30 * 20 {
			time.Sleep(50 * time.Millisecond)
			c.answered(time.Now())
		}
		if got := c.rate(time.Now()); got < 18 || got > 21 {
			t.Errorf("%v/s, want 20", got)
		}
		time.Sleep(time.Hour)
		if got := c.rate(time.Now()); got != 0 {
			t.Errorf("%v/s after an hour of nothing", got)
		}
	})
}
