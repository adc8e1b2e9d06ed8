package operator

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The questions that a person is asked, one after the other.
const (
	stepBadge  = "badge"
	stepPIN    = "pin"
	stepReason = "reason"
)

// The things that are asked about.
const (
	askMedium  = "medium"  // let a medium through that is not blank
	askScrap   = "scrap"   // scrap the slot's unit
	askEarlier = "earlier" // scrap the unit that is in the way
	askReprint = "reprint"
)

// dialog is a question to a person: an override by a supervisor, or why a label is
// printed again.
type dialog struct {
	what  string
	step  string
	slot  *slot
	unit  *Unit
	by    *Person
	text  string // what is asked for
	wrong string // why the last answer wasn't one
	begun time.Time
	seq   string // of the medium that was looked at: another one needs another answer
}

// reasons are the answers to why, by what is asked about.
var reasons = map[string][]string{
	askMedium:  {"Medium of a scrapped unit", "Trial medium", "Medium with old data", "Other"},
	askScrap:   {"Medium lost", "Medium faulty", "Unit damaged", "Test failed", "Other"},
	askEarlier: {"Unit came back from repair", "Unit was lost", "Unit was destroyed", "Other"},
	askReprint: {"Label damaged", "Label lost", "Print unreadable", "Other"},
}

// overridable returns the question that a supervisor could answer now.
func (st *Station) overridable() *dialog {
	slots := st.slots
	if st.focus != nil {
		slots = append([]*slot{st.focus}, slots...)
	}
	if st.notice != nil && st.notice.taken != nil {
		u := st.notice.taken
		return &dialog{what: askEarlier, unit: u, begun: time.Now(), text: fmt.Sprintf("Scrap unit %d of %s", u.Number, deviceName(u.Record))}
	}
	for _, s := range slots {
		switch {
		case s.phase == phaseRefused && s.override:
			return &dialog{what: askMedium, slot: s, seq: s.have.Seq, begun: time.Now(), text: fmt.Sprintf("Use the medium in slot %s, although %s", s.name, s.problem)}
		case s.unit != nil && s.unit.State != Failed && s.unit.State != Scrapped && (s.phase == phaseInterrupted || s.phase == phaseFailed):
			return st.scrapOf(s)
		}
	}
	return nil
}

func (st *Station) scrapOf(s *slot) *dialog {
	return &dialog{what: askScrap, slot: s, unit: s.unit, begun: time.Now(), text: fmt.Sprintf("Scrap unit %d, %s, in slot %s", s.unit.Number, deviceName(s.unit.Record), s.name)}
}

// askSupervisor begins an override.
func (st *Station) askSupervisor(scrap bool) {
	d := st.overridable()
	if scrap && (d == nil || d.what == askMedium) {
		s := st.focus
		if s == nil {
			s = st.due()
		}
		if s != nil && s.unit != nil && !s.phase.busy() {
			d = st.scrapOf(s)
		}
	}
	switch {
	case d == nil:
		st.say("info", "", "There is nothing to decide for a supervisor.", st.ask())
	case st.opt.Badges == nil:
		st.say("warn", "SUPERVISOR", "This station has no supervisors: station.badges names nobody.", "Use `keymill unit scrap` at the command line.")
	default:
		d.step = stepBadge
		st.dialog = d
	}
}

// askReprint asks why a label is wanted again.
func (st *Station) askReprint() {
	s := st.due()
	switch {
	case st.opt.Labeller == nil:
		st.say("info", "", "This station prints no labels.", "")
	case s != nil:
		st.dialog = &dialog{what: askReprint, step: stepReason, slot: s, unit: s.unit, begun: time.Now(), text: "Print the label of " + deviceName(s.unit.Record) + " again"}
	default:
		st.say("info", "", "No unit waits for its label.", "")
	}
}

func (st *Station) askLearn(arg string) {
	s := st.slotNamed(arg)
	switch {
	case s == nil:
		st.say("warn", "SLOT", fmt.Sprintf("There is no slot %s.", arg), "Scan LEARN and a slot of this station.")
	case s.unit != nil || s.program != nil:
		st.say("warn", "SLOT", "That slot can't be learnt now.", "")
	default:
		st.learning, st.ports, st.notice = arg, st.opt.Places.Ports(), nil
	}
}

// answer takes an answer to the question.
func (st *Station) answer(ctx context.Context, r reading, person *Person, command, arg string) {
	d := st.dialog
	if command == cmdCancel {
		st.dialog = nil
		return
	}
	switch d.step {
	case stepBadge:
		if person == nil || !person.Supervisor {
			d.wrong = "That is no supervisor's badge."
			st.play("bad")
			return
		}
		d.by, d.step, d.wrong = person, stepPIN, ""
	case stepReason:
		list := reasons[d.what]
		n, err := strconv.Atoi(arg)
		if command != cmdReason || err != nil || n < 1 || n > len(list) {
			d.wrong = "Scan or touch one of the reasons."
			st.play("bad")
			return
		}
		st.dialog = nil
		st.decide(ctx, d, list[n-1])
	}
}

// takePIN checks a supervisor's PIN. It is in no message and no event.
func (st *Station) takePIN(_ context.Context, pin string) {
	d := st.dialog
	pin = strings.TrimSpace(pin)
	if name, _ := read(pin, st.lay).command(); name == cmdCancel {
		st.dialog = nil
		return
	}
	if pin == "" {
		return
	}
	ok, wait := st.opt.Badges.verify(d.by, pin)
	switch {
	case ok:
		d.step, d.wrong = stepReason, ""
	case wait > 0:
		d.wrong = fmt.Sprintf("Too many wrong PINs. Wait %d seconds.", int(wait.Seconds())+1)
		st.play("bad")
	default:
		d.wrong = "That is not the PIN."
		st.opt.Log.Warn("a wrong PIN", "supervisor", d.by.Name)
		st.play("bad")
	}
}

// decide does what was asked for.
func (st *Station) decide(ctx context.Context, d *dialog, reason string) {
	by := st.operatorName()
	if d.by != nil {
		by = d.by.Name
	}
	note := Note{Action: "override", Reason: reason, Unit: d.unit, By: by, Facts: map[string]string{"what": d.text}}
	if d.slot != nil {
		note.Slot = d.slot.name
	}
	switch d.what {
	case askReprint:
		if d.slot.unit != d.unit || d.slot.phase != phaseLabelled {
			return
		}
		note.Action = "reprint"
		st.note(ctx, note)
		st.shift.reprints++
		st.shift.troubled[d.unit.Record.Row] = true
		d.slot.again = true
		st.wakePrinter()
		st.say("info", "", "The label is printed again.", "Stick it on and scan it.")
	case askMedium:
		if d.slot.phase != phaseRefused || d.slot.have.Seq != d.seq {
			st.say("warn", "SLOT", "The medium was changed.", "Look at slot "+d.slot.name+".")
			return
		}
		note.Facts["medium"] = d.slot.contents.Medium
		st.note(ctx, note)
		d.slot.allowed = d.seq
		st.looked(d.slot, d.slot.contents, nil)
		st.say("ok", "", fmt.Sprintf("The medium in slot %s is taken.", d.slot.name), "")
	case askScrap, askEarlier:
		st.scrap(ctx, d, note)
	}
}

// scrap ends a unit for good; its device can get another one.
func (st *Station) scrap(ctx context.Context, d *dialog, note Note) {
	u := *d.unit
	u.Reason = note.Reason
	st.note(ctx, note)
	if err := st.opt.Lot.Move(ctx, &u, Scrapped); err != nil {
		st.ledgerFault(err)
		return
	}
	st.counts.Scrapped++
	st.counts.Remaining++
	if d.unit.State == Confirmed {
		st.counts.Made--
	} else {
		st.counts.Live--
	}
	if d.slot != nil && d.slot.unit == d.unit {
		extra := d.slot.extra
		d.slot.clear()
		d.slot.have = Presence{} // looked at again
		if extra {
			st.slots = without(st.slots, d.slot)
		}
	}
	st.say("ok", "", fmt.Sprintf("Unit %d is scrapped.", u.Number), "Destroy its medium.")
	st.play("good")
}

func without(list []*slot, s *slot) []*slot {
	out := list[:0:0]
	for _, other := range list {
		if other != s {
			out = append(out, other)
		}
	}
	return out
}
