package operator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"keymill/pipeline"
)

// begin starts the writing of a slot's unit.
func (st *Station) begin(s *slot) {
	s.phase, s.percent, s.eta, s.pulled, s.problem = phaseStarting, 0, 0, false, ""
	s.stepped = time.Now()
	u := s.unit
	path, seq := s.have.Path, s.have.Seq
	st.spawn(func(ctx context.Context) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		st.mu.Lock()
		s.stopWork = stop
		st.mu.Unlock()
		st.produce(ctx, s, u, path, seq)
	})
}

// produce brings a unit from reserved to verified, and gives it to the printer.
func (st *Station) produce(ctx context.Context, s *slot, u *Unit, path, seq string) {
	if !s.resumed {
		if err := st.opt.Before.run(ctx, "before", st.opt.Lot.Name(), u); err != nil {
			st.failUnit(ctx, s, u, err, false)
			return
		}
	}
	var err error
	if s.program != nil {
		err = st.runSlot(ctx, s, u)
	} else {
		err = st.writeMedium(ctx, s, u, path, seq)
	}
	if err != nil {
		st.failed(ctx, s, u, err)
		return
	}
	if err := st.move(ctx, u, Verified, nil); err != nil {
		st.locked(func() { st.ledgerFault(err); s.phase, s.stopWork = phaseInterrupted, nil })
		return
	}
	if err := st.opt.After.run(ctx, "after", st.opt.Lot.Name(), u); err != nil {
		left := s.program != nil
		if !left {
			left = st.opt.Press.Wipe(context.WithoutCancel(ctx), path) != nil
		}
		st.failUnit(ctx, s, u, err, left)
		return
	}
	if st.opt.Maker != nil {
		st.release(ctx, s, u)
		return
	}
	st.locked(func() { st.written(s) })
}

// locked runs f with the lock held and shows what came of it.
func (st *Station) locked(f func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f()
	st.publish()
}

// written is called when a unit is verified and may get its label.
func (st *Station) written(s *slot) {
	s.phase, s.percent, s.eta, s.stopWork = phaseVerified, 100, 0, nil
	if st.opt.Labeller == nil {
		st.play("good") // the operator's DONE is what is missing
	}
	st.wakePrinter()
}

// writeMedium writes to the medium in the slot.
func (st *Station) writeMedium(ctx context.Context, s *slot, u *Unit, path, seq string) error {
	return st.opt.Press.Write(ctx, WriteJob{
		Unit: u, Path: path, Resumed: s.resumed,
		Check: func(c Contents) error {
			st.mu.Lock()
			defer st.mu.Unlock()
			if s.have.Seq != seq {
				return &refusal{text: "the medium was changed"}
			}
			return st.judge(s, c)
		},
		Begin: func(ctx context.Context, medium string) error {
			return st.beginWriting(ctx, s, u, medium+seenAs(seq))
		},
		First: func() {
			st.locked(func() {
				if !s.resumed {
					st.latency.add(time.Since(s.scanned))
				}
				s.phase, s.stepped = phaseWriting, time.Now()
			})
		},
		Progress: func(step string, done, total int64) { st.progress(s, step, done, total) },
	})
}

// seenAs is what the kernel numbered a medium's stay in its slot: as long as the
// number stands, and the machine was not booted since, it is the same medium.
func seenAs(seq string) string { return " #" + seq }

// beginWriting records that bytes are about to leave.
func (st *Station) beginWriting(ctx context.Context, s *slot, u *Unit, medium string) error {
	return st.move(ctx, u, Writing, func(next *Unit) { next.Medium, next.Slot, next.SameBoot = medium, s.name, true })
}

// move brings a unit to its next state. It is called without the lock, by
// whoever works on the unit.
func (st *Station) move(ctx context.Context, u *Unit, to UnitState, change func(next *Unit)) error {
	next := *u
	if change != nil {
		change(&next)
	}
	if err := st.opt.Lot.Move(context.WithoutCancel(ctx), &next, to); err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	*u = next
	return nil
}

// progress shows how far the writing is: writing is the first half, comparing the
// second.
func (st *Station) progress(s *slot, step string, done, total int64) {
	if total == 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	percent := int(50 * done / total)
	next := phaseWriting
	if step != "write" {
		percent, next = 50+percent, phaseComparing
	}
	if step == "key" {
		percent = 99
	}
	if percent == s.percent && s.phase == next {
		return
	}
	if percent > 2 {
		spent := time.Since(s.stepped)
		s.eta = spent*time.Duration(100-percent)/time.Duration(percent) + time.Second
	}
	s.percent, s.phase = min(percent, 99), next
	st.publish()
}

// failed decides what an error of writing means: the medium's, the unit's, or the
// line's.
func (st *Station) failed(ctx context.Context, s *slot, u *Unit, err error) {
	refused, isRefusal := errors.AsType[*refusal](err)
	if isRefusal && u.State == Reserved { // nothing went out: another medium will do
		st.locked(func() {
			s.stopWork = nil
			s.problem, s.override, s.phase = refused.text, refused.override, phaseRefused
			st.play("bad")
		})
		return
	}
	failure, ok := errors.AsType[*WriteError](err)
	if !ok {
		failure = &WriteError{Code: "write", Err: err, KeyLeft: u.State == Writing && s.resumed}
	}
	if outage, gone := errors.AsType[*pipeline.Outage](err); gone {
		st.locked(func() { st.stop(partOf(outage), outage.Error(), true) })
	} else if failure.Code == "golden" || failure.Code == "pack" {
		st.locked(func() { st.stop("disk", failure.Error(), true) })
	}
	st.failUnit(ctx, s, u, failure, failure.KeyLeft)
}

func partOf(o *pipeline.Outage) string {
	switch part := strings.ToLower(string(o.Part)); part {
	case "server", "hsm":
		return part
	}
	return "disk"
}

// failUnit ends a unit, or keeps it bound where its key may be on the medium.
func (st *Station) failUnit(ctx context.Context, s *slot, u *Unit, err error, keyLeft bool) {
	code, text := "write", err.Error()
	if failure, ok := errors.AsType[*WriteError](err); ok {
		code = failure.Code
	}
	if hooked, ok := errors.AsType[*hookError](err); ok {
		code = hooked.code
	}
	if s.pulledOut(st) {
		code, text = "pulled", "the medium was taken out while it was written"
	}
	if !keyLeft {
		if merr := st.move(ctx, u, Failed, func(next *Unit) { next.Reason = code }); merr != nil {
			st.locked(func() { st.ledgerFault(merr) })
			keyLeft = true
		}
	}
	st.locked(func() {
		s.stopWork, s.problem, s.percent, s.eta = nil, text, 0, 0
		st.shift.fail(u, code)
		st.play("bad")
		if keyLeft {
			s.phase = phaseInterrupted
			if u.State != Writing { // a finished medium that a test found bad
				s.phase = phaseFailed
			}
			if s.phase == phaseInterrupted && !s.pulled {
				s.problem = text
			}
			return
		}
		st.counts.Failed++
		st.counts.Live--
		st.counts.Remaining++
		s.phase = phaseFailed
		st.notice = &notice{grade: "fail", code: strings.ToUpper(code), text: fmt.Sprintf("Slot %s, %s: %s.", s.name, deviceName(u.Record), sentence(text)),
			action: "Take the medium out and put it into the red box. Scan ACK.", sticky: true}
		if file, ok := s.place.(*filePlace); ok {
			file.discard()
		}
		if !s.needsMedium() || s.have.Path == "" {
			s.clear()
			s.rest()
		}
	})
}

// pulledOut reports whether the medium went while it was written.
func (s *slot) pulledOut(st *Station) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return s.pulled
}

// sentence prepares an error for a screen: its first line, without a full stop.
func sentence(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	line = strings.TrimRight(line, ". ")
	if len(line) > 160 {
		line = line[:160] + ".."
	}
	return line
}

// release has the server say yes to a device whose image is written, and asks as
// long as it takes: no label before the 201.
func (st *Station) release(ctx context.Context, s *slot, u *Unit) {
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		rec, err := st.opt.Maker.Release(ctx, u.Record)
		outage, gone := errors.AsType[*pipeline.Outage](err)
		switch {
		case err == nil:
			st.locked(func() {
				u.Record = rec
				st.written(s)
			})
			return
		case ctx.Err() != nil:
			return
		case !gone:
			st.failUnit(ctx, s, u, err, true)
			return
		case partOf(outage) != "server":
			st.locked(func() { st.stop(partOf(outage), outage.Error(), true) })
		}
		st.locked(func() { s.phase, s.problem = phaseHold, sentence(err.Error()) })
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// deviceName is what people call a device.
func deviceName(rec *pipeline.Record) string {
	if rec == nil {
		return ""
	}
	if serial, ok := rec.Attr("serial"); ok && serial != "" {
		return serial
	}
	if len(rec.Identity) > 0 {
		return rec.Identity[0].Value
	}
	return fmt.Sprintf("row %d", rec.Row)
}

// safeName makes a device's name one of a file.
func safeName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.TrimLeft(filepath.Base(name), "."))
}
