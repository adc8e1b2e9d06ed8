package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keymill/pipeline"
)

// ErrLeaseLost says that a station may no longer work on a chunk: its lease
// ran out or would run out before the effect that it is about to begin.
var ErrLeaseLost = errors.New("the station's lease on these devices has run out")

// hold is a station's lease on one chunk. Its end counts from the moment before
// the claim or the renewal was sent, so that it is never later than the
// database's.
type hold struct {
	now   func() time.Duration // since boot, sleep included
	lease time.Duration        // how long a lease lasts
	end   atomic.Int64         // a now()
	ended chan struct{}        // closed by keep
}

var _ pipeline.Hold = (*hold)(nil)

// sinceBoot is the time since the machine booted. Unlike time.Now's monotonic
// part it goes on while the machine sleeps, as the database's clock does.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 1<<63 - 1 // leases then never hold: safe, and no Linux lacks this clock
	}
	return time.Duration(t.Nano())
}

func newHold(now func() time.Duration, lease time.Duration) *hold {
	return &hold{now: now, lease: lease, ended: make(chan struct{})}
}

// extend sends a claim or a renewal, and lets the hold last from the moment
// before it was sent if it succeeds.
func (h *hold) extend(send func() error) error {
	sent := h.now()
	if err := send(); err != nil {
		return err
	}
	h.end.Store(int64(sent + h.lease))
	return nil
}

func (h *hold) left() time.Duration { return time.Duration(h.end.Load()) - h.now() }

// Holds implements pipeline.Hold.
func (h *hold) Holds(d time.Duration) error {
	if left := h.left(); left <= d {
		return fmt.Errorf("%w (%s left, the next step may take %s)", ErrLeaseLost, max(left, 0).Round(time.Second), d)
	}
	return nil
}

// Ended implements pipeline.Hold.
func (h *hold) Ended() <-chan struct{} { return h.ended }

// keep renews the lease every so often until ctx ends or the lease does: because
// nothing is left to renew, or because no renewal got through in time.
func (h *hold) keep(ctx context.Context, every time.Duration, renew func(context.Context) (int, error)) {
	next := h.now() + every
	for {
		wait := time.NewTimer(min(next-h.now(), h.left()))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		if h.left() <= 0 {
			close(h.ended)
			return
		}
		if h.now() < next {
			continue
		}
		next = h.now() + every
		held := 0
		err := h.extend(func() (err error) {
			within, cancel := context.WithTimeout(ctx, h.left())
			defer cancel()
			held, err = renew(within)
			return err
		})
		if err == nil && held == 0 { // all done, or revoked
			h.end.Store(0)
		}
	}
}
