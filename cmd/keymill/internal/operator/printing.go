package operator

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func (st *Station) wakePrinter() {
	select {
	case st.printing <- struct{}{}:
	default:
	}
}

// printerPoll is how often the printer is asked while it is idle or in trouble.
const printerPoll = 2 * time.Second

// printLoop prints the labels of verified units, one after the other. Where the
// printer doesn't, the line stops, and the units wait in their slots.
func (st *Station) printLoop(ctx context.Context) {
	if st.opt.Printer == nil || st.opt.Labeller == nil {
		return
	}
	for {
		for st.printOne(ctx) {
		}
		select {
		case <-ctx.Done():
			return
		case <-st.printing:
		case <-time.After(printerPoll):
		}
	}
}

// printOne prints the next label, and reports whether there may be another one.
func (st *Station) printOne(ctx context.Context) bool {
	st.mu.Lock()
	s := st.nextToPrint()
	var u *Unit
	var data []byte
	var sent bool
	var err error
	if s != nil {
		u, sent = s.unit, s.printed
		if s.label == nil {
			u.Label, s.label, err = st.opt.Labeller.Label(u, s.sticker)
		}
		data = s.label
	}
	st.mu.Unlock()
	if err != nil {
		st.locked(func() { st.stop("printer", "a label can't be made: "+err.Error(), true) })
		return false
	}
	switch {
	case s == nil:
		err = st.opt.Printer.Ready(ctx)
	case sent:
		if err = st.opt.Printer.Ready(ctx); err == nil {
			err = st.opt.Printer.Settle(ctx)
		}
	default:
		err = st.opt.Printer.Print(ctx, labelName(u), data)
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		st.printerFault(s, err)
		return false
	}
	if s == nil {
		st.locked(func() { st.resume("printer") })
		return false
	}
	return st.labelled(ctx, s, u)
}

func labelName(u *Unit) string {
	return fmt.Sprintf("%06d-%s", u.Number, safeName(deviceName(u.Record)))
}

// nextToPrint returns the slot whose label is due, the one that has waited longest
// first.
func (st *Station) nextToPrint() *slot {
	var next *slot
	for _, s := range st.slots {
		due := s.unit != nil && (s.phase == phaseVerified || s.phase == phaseLabelled && s.again)
		if due && (next == nil || s.scanned.Before(next.scanned)) {
			next = s
		}
	}
	return next
}

func (st *Station) printerFault(s *slot, err error) {
	refused, ok := errors.AsType[*PrinterError](err)
	text := err.Error()
	if ok {
		text = "The printer " + refused.Text + "."
	}
	st.locked(func() {
		if s != nil && ok && refused.Queued {
			s.printed = true
		}
		st.stop("printer", text, false)
	})
}

// labelled records that a label is out.
func (st *Station) labelled(ctx context.Context, s *slot, u *Unit) bool {
	var err error
	if u.State == Verified {
		err = st.move(ctx, u, Labelled, nil)
	}
	more := false
	st.locked(func() {
		if err != nil {
			st.ledgerFault(err)
			return
		}
		more = true
		st.resume("printer")
		s.printed, s.again = false, false
		if s.unit == u && s.phase == phaseVerified {
			s.phase = phaseLabelled
			st.play("good")
		}
	})
	return more
}
