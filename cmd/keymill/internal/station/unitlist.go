package station

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// UnitView is a unit as `unit list --json` shows it.
type UnitView struct {
	Device    pipeline.Identity  `json:"device"`
	Name      string             `json:"-"`
	Row       int                `json:"row"`
	Unit      int                `json:"unit"`
	State     pipeline.UnitState `json:"state"`
	Medium    string             `json:"medium"`
	Slot      string             `json:"slot"`
	Recipient string             `json:"recipient,omitempty"`
	Client    string             `json:"client,omitempty"`
	Label     string             `json:"label,omitempty"`
	Operator  string             `json:"operator"`
	Reason    string             `json:"reason"`
	Updated   string             `json:"updated"` // RFC 3339
}

func viewUnit(u *pipeline.Unit) UnitView {
	return UnitView{
		Device: u.Device, Name: u.Device.Name(), Row: u.Row, Unit: u.Number, State: u.State, Medium: u.Medium, Slot: u.Slot,
		Recipient: u.Recipient, Client: u.Client, Label: u.Label, Operator: u.Operator, Reason: u.Reason,
		Updated: u.Updated.UTC().Format(time.RFC3339),
	}
}

// UnitList lists all units of the lot.
func (v *View) UnitList(ctx context.Context) ([]UnitView, error) {
	list := []UnitView{}
	for u, err := range v.Ledger.Units(ctx, v.Planned.Name) {
		if err != nil {
			return nil, err
		}
		list = append(list, viewUnit(u))
	}
	return list, nil
}

// UnitsOfDevice lists the units that a device ever had.
func (v *View) UnitsOfDevice(ctx context.Context, rec *pipeline.Record) ([]UnitView, error) {
	found, err := v.UnitsOf(ctx, rec.Lot, rec.Row)
	if err != nil {
		return nil, err
	}
	list := []UnitView{}
	for _, u := range found {
		list = append(list, viewUnit(u))
	}
	return list, nil
}

// ScrapUnit ends a device's live unit.
func (v *View) ScrapUnit(ctx context.Context, rec *pipeline.Record, reason string) (*pipeline.Unit, error) {
	units := v.Units()
	live, err := v.LiveUnit(ctx, rec.Lot, rec.Row)
	if err != nil {
		return nil, err
	}
	if live == nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s has no unit that could be scrapped", rec.Identity),
			"`keymill unit show %s %s` lists the units that it had.", rec.Lot, rec.Identity.Name()))
	}
	if (live.State == pipeline.UnitReserved || live.State == pipeline.UnitWriting) && live.Owner.Station == units.Station && live.Owner.Boot == bootID() && !units.dead(live) && live.Client == "" {
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("unit %d of %s is being written by process %d", live.Number, rec.Identity, live.Owner.PID),
			"Let that end, or stop it, then scrap the unit."))
	}
	err = units.Scrap(ctx, rec, live, reason)
	if errors.Is(err, pipeline.ErrLost) {
		err = fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("unit %d of %s was changed meanwhile", live.Number, rec.Identity), "Look at it again."))
	}
	return live, err
}

// Imported says what became of a gang programmer's report.
type Imported struct {
	Verified int `json:"verified"`
	Failed   int `json:"failed"`
	Same     int `json:"same"` // were imported before
}

// ImportProblem is a line of a report that can't be taken in.
type ImportProblem struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

// ImportError says that a report has problems, all of them; nothing was changed.
type ImportError struct{ Problems []ImportProblem }

func (e *ImportError) Error() string {
	return fmt.Sprintf("the report has %d problems; nothing was changed", len(e.Problems))
}

// Hint says what to do.
func (e *ImportError) Hint() string {
	return "Mend the lines that are named above, or take them out, then import the file again."
}

// reported is one line of a report.
type reported struct {
	line   int
	rec    *pipeline.Record
	live   *pipeline.Unit // nil: the device has none
	ok     bool
	medium string
	at     string
}

// ImportUnits takes in what a gang programmer did. Where lines are wrong, the error is
// an *ImportError, and nothing was changed.
func (v *View) ImportUnits(ctx context.Context, r io.Reader) (done Imported, err error) {
	lines, problems, err := v.readReport(ctx, r)
	if err != nil {
		return done, err
	}
	if len(problems) > 0 {
		return done, fault.As(fault.Manifest, &ImportError{problems})
	}
	units := v.Units()
	for _, l := range lines {
		unit := l.live
		if unit != nil && unit.State == pipeline.UnitVerified {
			done.Same++
			continue
		}
		if unit == nil {
			if unit, err = units.Reserve(ctx, l.rec, pipeline.Unit{Medium: l.medium, Recipient: "gang programmer"}); err != nil {
				return done, err
			}
		}
		if unit.State == pipeline.UnitWriting || unit.State == pipeline.UnitReserved {
			if err := units.Move(ctx, l.rec, unit, pipeline.UnitDelivered); err != nil {
				return done, err
			}
		}
		to := pipeline.UnitFailed
		if l.ok {
			to = pipeline.UnitVerified
		}
		err := units.changes(l.rec).MoveUnit(ctx, units.Ledger, l.rec, unit, to, func(next *pipeline.Unit) {
			if l.medium != "" {
				next.Medium = l.medium
			}
			if !l.ok {
				next.Reason = "programmer"
			}
		})
		if err != nil {
			return done, err
		}
		if l.ok {
			done.Verified++
		} else {
			done.Failed++
		}
	}
	return done, nil
}

// readReport reads the whole report and finds each line's device.
func (v *View) readReport(ctx context.Context, r io.Reader) (lines []reported, problems []ImportProblem, err error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = -1
	in.TrimLeadingSpace = true
	head, err := in.Read()
	if err != nil {
		return nil, nil, fault.As(fault.Manifest, fmt.Errorf("the report has no readable header: %w", err))
	}
	column := map[string]int{}
	for i, name := range head {
		column[strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))] = i
	}
	for _, name := range []string{"device", "result"} {
		if _, ok := column[name]; !ok {
			return nil, nil, fault.As(fault.Manifest, pipeline.WithHint(fmt.Errorf("the report has no column %q", name),
				"Its header must be: device,result,medium,time"))
		}
	}
	seen := map[int]int{} // line by row
	for {
		fields, err := in.Read()
		if errors.Is(err, io.EOF) {
			return lines, problems, nil
		}
		line, _ := in.FieldPos(0)
		if err != nil {
			return nil, nil, fault.As(fault.Manifest, fmt.Errorf("the report can't be read: %w", err))
		}
		value := func(name string) string {
			if i, ok := column[name]; ok && i < len(fields) {
				return strings.TrimSpace(fields[i])
			}
			return ""
		}
		l, problem, err := v.reportLine(ctx, line, value)
		if err != nil {
			return nil, nil, err
		}
		if problem == "" && seen[l.rec.Row] > 0 {
			problem = fmt.Sprintf("device %q is in line %d already", value("device"), seen[l.rec.Row])
		}
		if problem != "" {
			problems = append(problems, ImportProblem{line, problem})
			continue
		}
		seen[l.rec.Row] = line
		lines = append(lines, l)
	}
}

// reportLine reads one line; problem says what is wrong with it.
func (v *View) reportLine(ctx context.Context, line int, value func(string) string) (l reported, problem string, err error) {
	l = reported{line: line, medium: value("medium"), at: value("time")}
	switch strings.ToLower(value("result")) {
	case "ok", "pass", "passed", "verified":
		l.ok = true
	case "failed", "fail", "nok", "error":
	default:
		return l, fmt.Sprintf("result %q is neither ok nor failed", value("result")), nil
	}
	if l.at != "" && !isTime(l.at) {
		return l, fmt.Sprintf("time %q is not like 2026-11-30T10:00:00Z", l.at), nil
	}
	name := value("device")
	found, err := v.Find(ctx, v.Planned.Name, name)
	switch {
	case err != nil:
		return l, "", err
	case name == "" || len(found) == 0:
		return l, fmt.Sprintf("device %q is not in lot %s%s", name, v.Planned.Name, v.otherLot(ctx, name)), nil
	case len(found) > 1:
		return l, fmt.Sprintf("%d devices of lot %s have the value %q", len(found), v.Planned.Name, name), nil
	}
	l.rec = found[0]
	history, err := v.UnitsOf(ctx, l.rec.Lot, l.rec.Row)
	if err != nil {
		return l, "", err
	}
	var last *pipeline.Unit
	for _, u := range history {
		last = u
		if u.State.Live() {
			l.live = u
		}
	}
	switch {
	case l.live == nil && last != nil && last.State == pipeline.UnitScrapped:
		return l, fmt.Sprintf("device %q: its unit %d was scrapped (%s)", name, last.Number, last.Reason), nil
	case l.live == nil && l.rec.State != pipeline.Released:
		return l, fmt.Sprintf("device %q is %s, not released", name, l.rec.State), nil
	case l.live != nil && (l.live.State == pipeline.UnitLabelled || l.live.State == pipeline.UnitConfirmed || l.live.State == pipeline.UnitVerified && !l.ok):
		return l, fmt.Sprintf("device %q: its unit %d is %s already", name, l.live.Number, l.live.State), nil
	case l.live != nil && l.live.Client == "" && (l.live.State == pipeline.UnitReserved || l.live.State == pipeline.UnitWriting) && l.live.Medium != "standard output":
		return l, fmt.Sprintf("device %q: its unit %d is being written (%s)", name, l.live.Number, l.live.Medium), nil
	}
	return l, "", nil
}

// otherLot says which lot has a device, "" if none.
func (v *View) otherLot(ctx context.Context, name string) string {
	lots, err := v.Lots(ctx)
	if err != nil || name == "" {
		return ""
	}
	for _, lot := range lots {
		if lot.Name == v.Planned.Name {
			continue
		}
		if found, err := v.Find(ctx, lot.Name, name); err == nil && len(found) > 0 {
			return ", but in lot " + lot.Name
		}
	}
	return ""
}

// isTime reports whether text is a time as RFC 3339 writes it.
func isTime(text string) bool {
	_, err := time.Parse(time.RFC3339, text)
	return err == nil
}
