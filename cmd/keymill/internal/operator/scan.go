package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keymill/pipeline"
)

// scanLimit is how long the ledger may take to answer a scan.
const scanLimit = 10 * time.Second

// scanMost is the longest text that is a scan, in bytes.
const scanMost = 512

// Scan takes what a scanner read. Each scan has an id, so that one that is sent
// again does nothing; without an id it is new. The answer is what the page shows
// then.
func (st *Station) Scan(ctx context.Context, id, text string) *View {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), scanLimit)
	defer stop()
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.ids.add(id) {
		return st.view.Load()
	}
	st.scan(ctx, text)
	return st.view.Load()
}

func (st *Station) scan(ctx context.Context, text string) {
	if st.dialog != nil && st.dialog.step == stepPIN {
		st.last.text = "" // a PIN is remembered nowhere
		st.takePIN(ctx, text)
		st.publish()
		return
	}
	if looksLikeCalibration(text) {
		st.calibrated(ctx, text)
		st.publish()
		return
	}
	r := read(text, st.lay)
	if r.text == "" {
		return
	}
	if r.text == st.last.text && st.screen == st.last.screen {
		return // read twice
	}
	st.dispatch(ctx, r)
	st.publish()
	st.last.text, st.last.screen = r.text, st.screen
}

func (st *Station) calibrated(ctx context.Context, text string) {
	lay, said, err := calibrate(text)
	if err != nil {
		st.say("fail", "SCANNER", "The scanner and this computer don't fit together.", err.Error())
		return
	}
	st.lay = lay
	st.note(ctx, Note{Action: "calibrated", By: st.operatorName(), Facts: map[string]string{"result": said}})
	st.say("ok", "", said, "Go on.")
	st.play("good")
}

// note appends an event; the line stops where that fails.
func (st *Station) note(ctx context.Context, n Note) {
	if err := st.opt.Lot.Note(ctx, n); err != nil {
		st.ledgerFault(err)
	}
}

// dispatch decides what a scan means on the present screen.
func (st *Station) dispatch(ctx context.Context, r reading) {
	person := st.opt.Badges.find(r.options...)
	command, arg := r.command()
	switch {
	case st.opt.Badges != nil && st.person == nil:
		if person == nil {
			st.say("warn", "BADGE", "That is no badge of this station.", "Scan your badge.")
			return
		}
		st.begins(ctx, person)
	case st.ended:
		st.begins(ctx, person)
	case st.dialog != nil:
		st.answer(ctx, r, person, command, arg)
	case person != nil:
		st.badge(ctx, person)
	case command != "":
		st.command(ctx, command, arg)
	default:
		st.code(ctx, r)
	}
}

// begins begins a shift.
func (st *Station) begins(ctx context.Context, person *Person) {
	fresh := st.ended || st.shift.made == 0 && len(st.shift.failed) == 0
	st.person, st.ended, st.notice = person, false, nil
	if fresh {
		st.shift = newShift(time.Now())
	}
	st.note(ctx, Note{Action: "shift-began", By: st.operatorName()})
	st.play("good")
}

// badge handles a badge during a shift: somebody else goes on, or a supervisor
// is wanted.
func (st *Station) badge(ctx context.Context, person *Person) {
	switch {
	case person.Supervisor && st.overridable() != nil:
		st.dialog = st.overridable()
		st.dialog.by, st.dialog.step = person, stepPIN
	case person == st.person:
		st.say("info", "", person.Name+" is signed in.", "Go on.")
	default:
		st.person = person
		st.note(ctx, Note{Action: "shift-began", By: person.Name})
		st.say("ok", "", person.Name+" goes on.", "")
		st.play("good")
	}
}

// command does what a command's barcode says.
func (st *Station) command(ctx context.Context, name, arg string) {
	switch name {
	case cmdAck:
		st.acknowledge(ctx)
	case cmdDone:
		st.done(ctx)
	case cmdNext:
		st.next(ctx)
	case cmdReprint:
		st.askReprint()
	case cmdCancel:
		st.cancel(ctx)
	case cmdEnd:
		st.end(ctx)
	case cmdSlot:
		if st.focus = st.slotNamed(arg); st.focus == nil {
			st.say("warn", "SLOT", fmt.Sprintf("There is no slot %s.", arg), "Scan a slot of this station.")
			return
		}
		st.notice = nil
	case cmdDrop:
		st.drop(arg)
	case cmdLearn:
		st.askLearn(arg)
	case cmdSupervisor, cmdScrap:
		st.askSupervisor(name == cmdScrap)
	default:
		st.say("info", "", "There is nothing to answer.", "")
	}
}

// acknowledge takes note of a failure, or tries again what has stopped the line.
func (st *Station) acknowledge(ctx context.Context) {
	switch {
	case st.notice != nil && st.notice.sticky:
		st.notice = nil
	case len(st.stopped) > 0:
		for part, s := range st.stopped {
			if s.retry {
				delete(st.stopped, part)
			}
		}
		st.recount(ctx)
		st.wakePrinter()
	case st.opt.ByOperator:
		st.done(ctx)
	default:
		st.notice = nil
	}
}

// done confirms a unit where the operator does so without a label.
func (st *Station) done(ctx context.Context) {
	s := st.due()
	switch {
	case s == nil:
		st.say("info", "", "No unit waits for that.", "")
	case !st.opt.ByOperator:
		st.say("warn", "LABEL", "Only the printed label closes the unit.", "Scan the label on the unit.")
	default:
		st.confirm(ctx, s)
	}
}

// due returns the unit that waits for its confirmation: the one that was chosen
// by its slot, else the one that has waited longest.
func (st *Station) due() *slot {
	ready := func(s *slot) bool {
		return s.phase == phaseLabelled || s.phase == phaseVerified && st.opt.Labeller == nil
	}
	if st.focus != nil && ready(st.focus) {
		return st.focus
	}
	var due *slot
	for _, s := range st.slots {
		if ready(s) && (due == nil || s.scanned.Before(due.scanned)) {
			due = s
		}
	}
	return due
}

// next takes the lot's next device, where units have no code of their own.
func (st *Station) next(ctx context.Context) {
	if !st.opt.ByNext {
		st.say("warn", "SCAN", "Units of this lot have a code.", "Scan the unit's code.")
		return
	}
	if !st.mayStart() {
		return
	}
	rec, err := st.opt.Lot.Next(ctx)
	switch {
	case err != nil:
		st.ledgerFault(err)
	case rec == nil:
		st.say("info", "", "The lot is done: no device is left.", "Scan END at the end of the shift.")
	default:
		st.start(ctx, rec, "")
	}
}

// mayStart reports whether a new unit may be begun, and says why not.
func (st *Station) mayStart() bool {
	switch {
	case st.notice != nil && st.notice.sticky:
		st.play("bad")
		return false
	case len(st.stopped) > 0:
		st.play("bad")
		return false
	}
	return true
}

// start binds a device to a slot.
func (st *Station) start(ctx context.Context, rec *pipeline.Record, sticker string) {
	for _, s := range st.slots {
		if s.unit == nil || s.phase != phaseWaiting && (s.phase != phaseRefused || s.unit.State != Reserved) {
			continue
		}
		if st.opt.ByNext {
			st.say("warn", "SLOT", fmt.Sprintf("%s waits for a medium.", deviceName(s.unit.Record)), "Put a medium into slot "+s.name+".")
			return
		}
		first := deviceName(s.unit.Record)
		st.abandon(ctx, s, "disagree")
		st.say("fail", "DISAGREE", fmt.Sprintf("Two readings disagree: %s, then %s.", first, deviceName(rec)), "Scan ACK, then the unit in your hand.")
		st.notice.sticky = true
		return
	}
	s := st.freeSlot()
	if s == nil {
		st.say("warn", "SLOT", "No slot is free.", st.whenFree())
		return
	}
	if st.opt.Maker != nil {
		st.makeFirst(ctx, s, rec, sticker)
		return
	}
	u, err := st.opt.Lot.Reserve(ctx, rec, s.name, st.operatorName())
	if err != nil {
		st.notReserved(rec, err)
		return
	}
	st.seat(ctx, s, u, sticker, time.Now())
}

// seat gives a slot its unit, and begins where the medium is there.
func (st *Station) seat(ctx context.Context, s *slot, u *Unit, sticker string, scanned time.Time) {
	st.counts.Remaining--
	st.counts.Live++
	st.notice, st.focus = nil, nil
	s.unit, s.sticker, s.scanned, s.resumed = u, sticker, scanned, false
	if st.opt.Labeller != nil {
		code, data, err := st.opt.Labeller.Label(u, sticker)
		if err != nil { // said before anything is written
			st.abandon(ctx, s, "label")
			st.say("fail", "LABEL", "This unit gets no label: "+sentence(err.Error())+".", "Put the unit aside and call the line's engineer.")
			return
		}
		u.Label, s.label = code, data
	}
	if s.phase != phaseReady {
		s.phase = phaseWaiting
		return
	}
	st.begin(s)
}

// makeFirst makes the device's key before its unit: in make mode.
func (st *Station) makeFirst(ctx context.Context, s *slot, rec *pipeline.Record, sticker string) {
	if live, err := st.opt.Lot.Live(ctx, rec); err != nil || live != nil {
		if err == nil {
			err = &TakenError{live}
		}
		st.notReserved(rec, err)
		return
	}
	before, by, scanned := s.phase, st.operatorName(), time.Now()
	st.notice, st.focus = nil, nil
	s.phase = phaseStarting
	st.spawn(func(ctx context.Context) {
		made, err := st.opt.Maker.Stage(ctx, rec)
		var u *Unit
		if err == nil {
			u, err = st.opt.Lot.Reserve(ctx, made, s.name, by)
		}
		st.locked(func() {
			s.phase = before
			if s.have.Path == "" {
				s.phase = phaseEmpty
			}
			if err != nil {
				st.notReserved(rec, err)
				return
			}
			st.seat(ctx, s, u, sticker, scanned)
		})
	})
}

// notReserved says why a device gets no unit.
func (st *Station) notReserved(rec *pipeline.Record, err error) {
	name := deviceName(rec)
	taken, isTaken := errors.AsType[*TakenError](err)
	state, notReady := errors.AsType[*NotReadyError](err)
	outage, gone := errors.AsType[*pipeline.Outage](err)
	switch {
	case isTaken:
		st.say("fail", "DISPENSED", fmt.Sprintf("%s has its image already: unit %d is %s.", name, taken.Unit.Number, taken.Unit.State),
			"Put the unit aside. A supervisor can scrap the earlier one.")
		st.notice.taken = taken.Unit
	case notReady:
		st.say("fail", "STATE", fmt.Sprintf("%s is %s, so it has no image.", name, state.State), "Put the unit aside. Scan another one.")
	case gone:
		st.stop(partOf(outage), outage.Error(), true)
	case st.opt.Maker != nil:
		st.say("fail", "KEY", fmt.Sprintf("%s: %s.", name, sentence(err.Error())), "Put the unit aside. Scan another one.")
	default:
		st.ledgerFault(err)
	}
}

// freeSlot chooses the slot for a new unit: the one that was scanned, else one
// with a medium, else an empty one.
func (st *Station) freeSlot() *slot {
	if st.focus != nil && st.focus.free() {
		return st.focus
	}
	for _, want := range []phase{phaseReady, phaseLooking, phaseEmpty} {
		for _, s := range st.slots {
			if s.free() && s.phase == want {
				return s
			}
		}
	}
	return nil
}

// whenFree says what to do for a free slot.
func (st *Station) whenFree() string {
	var soonest *slot
	for _, s := range st.slots {
		switch s.phase {
		case phaseDone:
			return "Take the medium out of slot " + s.name + "."
		case phaseLabelled:
			return "Scan the label of slot " + s.name + "."
		case phaseFailed, phaseRefused:
			return "Empty slot " + s.name + "."
		}
		if s.phase.busy() && (soonest == nil || s.eta < soonest.eta) {
			soonest = s
		}
	}
	if soonest != nil {
		return "Wait for slot " + soonest.name + "."
	}
	return "Look at the slots."
}

// abandon ends a unit of which nothing was written.
func (st *Station) abandon(ctx context.Context, s *slot, reason string) {
	u := *s.unit
	u.Reason = reason
	if err := st.opt.Lot.Move(ctx, &u, Failed); err != nil {
		st.ledgerFault(err)
		return
	}
	st.counts.Remaining++
	st.counts.Live--
	st.counts.Failed++
	s.clear()
	s.rest()
}

// rest gives a slot without a unit the phase that its medium means.
func (s *slot) rest() {
	_, file := s.place.(*filePlace)
	switch {
	case s.have.Path == "":
		s.phase = phaseEmpty
	case file || s.program != nil || s.contents.Holds == HoldsNothing && s.contents.Bytes > 0:
		s.phase = phaseReady
	default:
		s.phase, s.have = phaseEmpty, Presence{} // looked at again
	}
}

// cancel takes back a scan whose unit still waits for its medium, or a question.
func (st *Station) cancel(ctx context.Context) {
	for _, s := range st.slots {
		if s.unit != nil && s.unit.State == Reserved && (s.phase == phaseWaiting || s.phase == phaseRefused) {
			name := deviceName(s.unit.Record)
			st.abandon(ctx, s, "cancelled")
			st.say("info", "", name+" was taken back.", st.ask())
			return
		}
	}
	if st.learning != "" {
		st.learning = ""
	}
	if st.notice != nil && !st.notice.sticky {
		st.notice = nil
	}
}

// drop frees a slot whose medium the station can't see leaving.
func (st *Station) drop(arg string) {
	s := st.slotNamed(arg)
	if s == nil || s.phase != phaseDone && s.phase != phaseFailed || s.unit != nil && s.unit.State != Confirmed && s.unit.State != Failed && s.unit.State != Scrapped {
		st.say("warn", "SLOT", "That slot has nothing to be freed of.", "")
		return
	}
	s.clear()
	s.rest()
}

// end shows the shift's numbers.
func (st *Station) end(ctx context.Context) {
	for _, s := range st.slots {
		if s.unit != nil && (s.phase.busy() || s.phase == phaseWaiting || s.phase == phaseVerified || s.phase == phaseLabelled) && s.phase != phaseHold {
			st.say("warn", "END", fmt.Sprintf("Slot %s is not finished: %s.", s.name, deviceName(s.unit.Record)), "Finish it, or scan CANCEL, then END.")
			return
		}
	}
	st.note(ctx, Note{Action: "shift-ended", By: st.operatorName(), Facts: map[string]string{
		"made": fmt.Sprint(st.shift.made), "reprints": fmt.Sprint(st.shift.reprints), "first_pass_yield": fmt.Sprintf("%.1f", st.shift.yield())}})
	st.ended, st.person, st.notice = true, nil, nil
	if st.opt.Badges != nil {
		st.person = nil
	}
}

// confirm closes a unit.
func (st *Station) confirm(ctx context.Context, s *slot) {
	u := *s.unit
	if err := st.opt.Lot.Move(ctx, &u, Confirmed); err != nil {
		st.ledgerFault(err)
		return
	}
	*s.unit = u
	st.counts.Made++
	st.counts.Live--
	st.shift.pass(&u, time.Since(s.scanned))
	st.lastDone = &slotMemory{unit: &u, data: s.label}
	st.focus = nil
	if st.notice == nil || !st.notice.sticky {
		st.say("ok", "", deviceName(u.Record)+" is closed.", "")
	}
	st.play("good")
	s.phase = phaseDone
	if file, ok := s.place.(*filePlace); ok {
		if err := file.finish(s.name, deviceName(u.Record)); err != nil {
			st.stop("disk", err.Error(), true)
		}
	}
	switch {
	case !s.needsMedium():
		s.clear()
		s.rest()
	case s.have.Path == "":
		s.clear()
	}
}
