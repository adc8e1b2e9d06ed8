package operator

import (
	"context"
	"errors"
	"fmt"

	"keymill/pipeline"
)

// code handles what is neither a badge nor a command: a label that was printed
// here, or a unit's code.
func (st *Station) code(ctx context.Context, r reading) {
	for _, s := range st.slots {
		switch {
		case s.unit == nil || !sameLabel(r, s.unit.Label):
		case s.phase == phaseLabelled:
			st.confirm(ctx, s)
			return
		case s.phase == phaseVerified || s.phase == phaseHold:
			st.say("warn", "LABEL", "The label of that unit is not out yet.", "Wait for it.")
			return
		}
	}
	if st.notice != nil && st.notice.sticky {
		st.play("bad")
		return
	}
	if m := st.lastDone; m != nil && sameLabel(r, m.unit.Label) {
		st.say("info", "", deviceName(m.unit.Record)+" is closed already.", st.ask())
		return
	}
	rec, err := st.find(ctx, r)
	missing, unknown := errors.AsType[*NotFoundError](err)
	switch {
	case unknown:
		st.unknown(ctx, r, missing)
	case err != nil:
		st.ledgerFault(err)
	default:
		st.unit(ctx, rec, r.text)
	}
}

// find looks a scan's meanings up, most likely first. Where a scanner swallows GS
// two serial numbers may be meant, and none is taken.
func (st *Station) find(ctx context.Context, r reading) (*pipeline.Record, error) {
	first := &NotFoundError{Code: r.text}
	var found *pipeline.Record
	for _, option := range r.options {
		rec, err := st.opt.Lot.Find(ctx, option)
		missing, unknown := errors.AsType[*NotFoundError](err)
		switch {
		case unknown:
			if first.Other == "" {
				first.Other = missing.Other
			}
		case err != nil:
			return nil, err
		case option == r.text:
			return rec, nil
		case found != nil && found.Row != rec.Row:
			return nil, &NotFoundError{Code: r.text}
		default:
			found = rec
		}
	}
	if found == nil {
		return nil, first
	}
	return found, nil
}

// unknown says what may be wrong with a code that no device has.
func (st *Station) unknown(ctx context.Context, r reading, missing *NotFoundError) {
	if s := st.due(); s != nil && s.phase == phaseLabelled {
		st.say("fail", "LABEL", fmt.Sprintf("That is not the label of %s.", deviceName(s.unit.Record)),
			fmt.Sprintf("Scan the label that was printed for slot %s.", s.name))
		return
	}
	if missing.Other != "" {
		st.say("fail", "LOT", fmt.Sprintf("%s belongs to lot %s.", short(r.text), missing.Other), "Put the unit aside. Scan one of this lot.")
		return
	}
	for _, lay := range wrongLayouts {
		for _, option := range read(r.text, lay).options {
			if option == r.text {
				continue
			}
			if _, err := st.opt.Lot.Find(ctx, option); err == nil {
				st.say("fail", "SCANNER", "The scanner and this computer have different keyboard layouts.", "Scan the calibration code of the badge sheet.")
				return
			}
		}
	}
	st.say("fail", "UNKNOWN", fmt.Sprintf("No unit of this lot has the code %s.", short(r.text)), "Scan the code on the unit.")
}

func short(s string) string {
	if len(s) > 40 {
		return s[:40] + ".."
	}
	return s
}

// unit handles the code of one of the lot's units.
func (st *Station) unit(ctx context.Context, rec *pipeline.Record, sticker string) {
	name := deviceName(rec)
	for _, s := range st.slots {
		if s.unit == nil || s.unit.Record.Row != rec.Row {
			continue
		}
		switch s.phase {
		case phaseLabelled:
			st.say("warn", "LABEL", "That is the unit's own code; it confirms nothing.", "Stick the printed label on and scan it.")
		case phaseInterrupted:
			st.say("warn", "INTERRUPTED", fmt.Sprintf("%s was interrupted in slot %s.", name, s.name), "Put the same medium back into slot "+s.name+".")
		case phaseDone:
			st.say("info", "", name+" is closed already.", st.ask())
		default:
			st.say("info", "", fmt.Sprintf("%s is in slot %s.", name, s.name), "")
		}
		return
	}
	if st.opt.ByNext {
		st.say("warn", "SCAN", "This lot's units have no code of their own.", "Scan NEXT for the next unit.")
		return
	}
	if st.mayStart() {
		st.start(ctx, rec, sticker)
	}
}
