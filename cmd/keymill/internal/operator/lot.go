package operator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// ledgerLot is a lot in the ledger.
type ledgerLot struct {
	ledger  *ledger.Ledger
	lot     pipeline.Lot
	station string
	code    string           // the attribute on the units' stickers
	states  []pipeline.State // of devices that may get a unit
	making  bool
	owner   pipeline.Owner
	changes pipeline.Transitions

	// rows are all devices in the manifest's order, and byCode those that a code
	// names that the ledger has no index for. The roster of a lot never changes.
	rows   []pipeline.IdentitySum
	byCode map[string]pipeline.IdentitySum

	mu   sync.Mutex
	next int // rows before it have units, or had when they were looked at
}

// newLedgerLot reads the lot's roster where codes need it.
func newLedgerLot(ctx context.Context, known *ledger.Ledger, lot pipeline.Lot, station, code string, run int64, making bool) (*ledgerLot, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	l := &ledgerLot{ledger: known, lot: lot, station: station, code: code, making: making,
		states:  []pipeline.State{pipeline.Released},
		owner:   pipeline.Owner{Station: station, Boot: strings.TrimSpace(string(boot)), PID: os.Getpid()},
		changes: pipeline.Transitions{Ledger: known, Station: station, Run: run}}
	if making {
		l.states = []pipeline.State{pipeline.Staged, pipeline.Preauthorized, pipeline.Released}
	}
	if code == "serial" { // the ledger finds it
		for rec, err := range known.Records(ctx, lot.Name) {
			if err != nil {
				return nil, err
			}
			return l, hasCode(rec, code)
		}
		return l, nil
	}
	l.byCode = map[string]pipeline.IdentitySum{}
	for rec, err := range known.Records(ctx, lot.Name) {
		if err == nil {
			err = l.enrol(rec)
		}
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

func hasCode(rec *pipeline.Record, code string) error {
	if value, ok := rec.Attr(code); ok && value != "" {
		return nil
	}
	return pipeline.WithHint(fmt.Errorf("row %d has no %s, so its unit has no code to scan", rec.Row, code),
		"Set station.code to an attribute that all devices have, or to \"\" for units without a code.")
}

// enrol notes a device by its code.
func (l *ledgerLot) enrol(rec *pipeline.Record) error {
	if l.code == "" {
		l.rows = append(l.rows, rec.Identity.Sum())
		return nil
	}
	if err := hasCode(rec, l.code); err != nil {
		return err
	}
	value, _ := rec.Attr(l.code)
	if _, twice := l.byCode[value]; twice {
		return pipeline.WithHint(fmt.Errorf("two devices of lot %s have the %s %q", l.lot.Name, l.code, value),
			"Set station.code to an attribute that names one device only.")
	}
	l.byCode[value] = rec.Identity.Sum()
	return nil
}

func (l *ledgerLot) Name() string { return l.lot.Name }

func (l *ledgerLot) Find(ctx context.Context, code string) (*pipeline.Record, error) {
	if l.byCode != nil && l.code != "" {
		if sum, ok := l.byCode[code]; ok {
			return l.ledger.Record(ctx, l.lot.Name, sum)
		}
		return nil, l.missing(ctx, code)
	}
	found, err := l.ledger.Find(ctx, l.lot.Name, code)
	if err != nil {
		return nil, err
	}
	for _, rec := range found {
		if value, ok := rec.Attr(l.code); l.code == "" || ok && strings.EqualFold(value, code) {
			return rec, nil
		}
	}
	return nil, l.missing(ctx, code)
}

// missing says whose code it is, if it is another lot's.
func (l *ledgerLot) missing(ctx context.Context, code string) error {
	found, err := l.ledger.Find(ctx, "", code)
	if err != nil {
		return err
	}
	for _, rec := range found {
		if rec.Lot != l.lot.Name {
			return &NotFoundError{Code: code, Other: rec.Lot}
		}
	}
	return &NotFoundError{Code: code}
}

func (l *ledgerLot) Next(ctx context.Context) (*pipeline.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.next < len(l.rows); l.next++ {
		rec, err := l.ledger.Record(ctx, l.lot.Name, l.rows[l.next])
		if err != nil {
			return nil, err
		}
		ready := slices.Contains(l.states, rec.State) || l.making && slices.Contains(pipeline.Resumable, rec.State)
		if !ready || rec.Superseded != "" {
			continue
		}
		live, err := l.ledger.LiveUnit(ctx, l.lot.Name, rec.Row)
		if err != nil {
			return nil, err
		}
		if live == nil {
			return rec, nil
		}
	}
	return nil, nil
}

func (l *ledgerLot) Counts(ctx context.Context) (Counts, error) {
	totals, err := l.ledger.Totals(ctx, l.lot.Name)
	if err != nil {
		return Counts{}, err
	}
	units, err := l.ledger.CountUnits(ctx, l.lot.Name)
	if err != nil {
		return Counts{}, err
	}
	c := Counts{Devices: totals.Devices, Made: units[pipeline.UnitConfirmed], Failed: units[pipeline.UnitFailed], Scrapped: units[pipeline.UnitScrapped]}
	for state, n := range units {
		if state.Live() && state != pipeline.UnitConfirmed {
			c.Live += n
		}
	}
	c.Remaining = totals.Released - c.Live - c.Made
	if l.making {
		c.Remaining = totals.Devices - totals.Conflict - totals.Undone - c.Live - c.Made
	}
	c.Remaining = max(c.Remaining, 0)
	return c, nil
}

func (l *ledgerLot) Unfinished(ctx context.Context) ([]*Unit, error) {
	var left []*Unit
	for unit, err := range l.ledger.Units(ctx, l.lot.Name) {
		if err != nil {
			return nil, err
		}
		switch unit.State {
		case pipeline.UnitReserved, pipeline.UnitWriting, pipeline.UnitVerified, pipeline.UnitLabelled:
		default:
			continue
		}
		if unit.Owner.Station != l.station || unit.Slot == "" || l.alive(unit.Owner) {
			continue
		}
		rec, err := l.ledger.Record(ctx, l.lot.Name, unit.Device.Sum())
		if err != nil {
			return nil, err
		}
		u := fromLedger(unit, rec)
		u.SameBoot = unit.Owner.Boot == l.owner.Boot
		left = append(left, u)
	}
	return left, nil
}

// alive reports whether a unit's owner is another process that still runs.
func (l *ledgerLot) alive(owner pipeline.Owner) bool {
	if owner.Boot != l.owner.Boot || owner.PID == l.owner.PID || syscall.Kill(owner.PID, 0) != nil {
		return false
	}
	theirs, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(owner.PID), "exe"))
	ours, ourErr := os.Readlink("/proc/self/exe")
	return err == nil && ourErr == nil && filepath.Base(theirs) == filepath.Base(ours)
}

func fromLedger(unit *pipeline.Unit, rec *pipeline.Record) *Unit {
	return &Unit{Record: rec, Number: unit.Number, State: UnitState(unit.State), Reason: unit.Reason, Marker: unit.Marker, Medium: unit.Medium,
		Slot: unit.Slot, Operator: unit.Operator, Label: unit.Label, Created: unit.Created}
}

func (l *ledgerLot) Live(ctx context.Context, rec *pipeline.Record) (*Unit, error) {
	unit, err := l.ledger.LiveUnit(ctx, l.lot.Name, rec.Row)
	if err != nil || unit == nil {
		return nil, err
	}
	return fromLedger(unit, rec), nil
}

func (l *ledgerLot) Reserve(ctx context.Context, rec *pipeline.Record, slot, operator string) (*Unit, error) {
	if !slices.Contains(l.states, rec.State) {
		return nil, &NotReadyError{rec.State}
	}
	unit := &pipeline.Unit{Slot: slot, Operator: operator, Owner: l.owner}
	if _, err := rand.Read(unit.Marker[:]); err != nil {
		return nil, err
	}
	earlier, err := l.ledger.UnitsOf(ctx, l.lot.Name, rec.Row)
	if err != nil {
		return nil, err
	}
	err = l.changes.ReserveUnit(ctx, l.ledger, rec, unit, l.states...)
	taken, isTaken := errors.AsType[*pipeline.UnitTakenError](err)
	switch {
	case isTaken:
		return nil, &TakenError{fromLedger(taken.Unit, rec)}
	case errors.Is(err, pipeline.ErrLost):
		now, nowErr := l.ledger.Record(ctx, l.lot.Name, rec.Identity.Sum())
		if nowErr != nil {
			return nil, nowErr
		}
		return nil, &NotReadyError{now.State}
	case err != nil:
		return nil, err
	}
	u := fromLedger(unit, rec)
	u.Again = slices.ContainsFunc(earlier, func(e *pipeline.Unit) bool { return e.Label != "" })
	return u, nil
}

func (l *ledgerLot) Move(ctx context.Context, u *Unit, to UnitState) error {
	unit, err := l.ledger.Unit(ctx, l.lot.Name, u.Number)
	if err != nil {
		return err
	}
	if unit == nil || unit.State != pipeline.UnitState(u.State) {
		return fmt.Errorf("unit %d of lot %s was changed by somebody else: it is not %s any more", u.Number, l.lot.Name, u.State)
	}
	err = l.changes.MoveUnit(ctx, l.ledger, u.Record, unit, pipeline.UnitState(to), func(next *pipeline.Unit) {
		next.Reason, next.Medium, next.Slot, next.Operator, next.Owner = u.Reason, u.Medium, u.Slot, u.Operator, l.owner
		if to == Labelled || to == Confirmed {
			next.Label = u.Label
		}
	})
	if err != nil {
		return err
	}
	u.State = to
	if to == Failed || to == Scrapped { // its device may get another one
		l.mu.Lock()
		l.next = 0
		l.mu.Unlock()
	}
	return nil
}

func (l *ledgerLot) Note(ctx context.Context, n Note) error {
	facts := map[string]string{}
	maps.Copy(facts, n.Facts)
	event := pipeline.Event{Station: l.station, Lot: l.lot.Name, Run: l.changes.Run, Action: n.Action, Reason: n.Reason}
	if n.By != "" {
		facts["by"] = n.By
	}
	if n.Slot != "" {
		facts["slot"] = n.Slot
	}
	if n.Unit != nil {
		event.Row, event.Device = n.Unit.Record.Row, n.Unit.Record.Identity
		event.Serial, _ = n.Unit.Record.Attr("serial")
		facts["unit"] = strconv.Itoa(n.Unit.Number)
	}
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		event.Facts = append(event.Facts, pipeline.Attr{Name: name, Value: facts[name]})
	}
	_, err := l.ledger.Append(ctx, event)
	return err
}
