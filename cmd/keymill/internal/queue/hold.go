package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLeaseLost says that a station may no longer work on a chunk: its lease
// ran out or would run out before the effect that it is about to begin.
var ErrLeaseLost = errors.New("the station's lease on these devices has run out")

// hold is a station's lease on one chunk. Its end counts from the moment before
// the claim or the renewal was sent, so that it is never later than the
// database's.
type hold struct {
	now  func() time.Duration // since boot, sleep included
	end  atomic.Int64         // a now()
	last time.Duration        // how long a lease lasts
}

// sinceBoot is the time since the machine booted. Unlike time.Now's monotonic
// part it goes on while the machine sleeps, as the database's clock does.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // leases then never hold: safe, and no Linux lacks this clock
	}
	return time.Duration(t.Nano())
}

func newHold(now func() time.Duration, lease time.Duration) *hold {
	return &hold{now: now, last: lease}
}

// extend sends a claim or a renewal, and lets the hold last from the moment
// before it was sent if it succeeds.
func (h *hold) extend(send func() error) error {
	sent := h.now()
	if err := send(); err != nil {
		return err
	}
	h.end.Store(int64(sent + h.last))
	return nil
}

// Holds returns nil if the lease outlasts an effect that takes at most d.
func (h *hold) Holds(d time.Duration) error {
	if left := time.Duration(h.end.Load()) - h.now(); left <= d {
		return fmt.Errorf("%w (%s left, the next step may take %s)", ErrLeaseLost, max(left, 0).Round(time.Second), d)
	}
	return nil
}

// keep renews the lease every renew until ctx ends or nothing is left to renew.
// A renewal that fails is tried again at the next turn: the lease's own end is
// what stops the work.
func (h *hold) keep(ctx context.Context, every time.Duration, renew func(context.Context) (int, error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		left := 0
		err := h.extend(func() (err error) {
			left, err = renew(ctx)
			return err
		})
		if err == nil && left == 0 {
			h.end.Store(0)
			return
		}
	}
}
