package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// UnitState is where a unit stands. ARCHITECTURE.md draws the transitions.
type UnitState string

// The states of a unit. What this station writes and reads back goes from
// reserved through writing, verified and labelled to confirmed; what leaves by
// HTTP or stdout from reserved to delivered, and then to verified or failed.
const (
	UnitReserved  UnitState = "reserved"
	UnitWriting   UnitState = "writing"   // durable before the first byte leaves
	UnitVerified  UnitState = "verified"  // the medium gave back what was written
	UnitLabelled  UnitState = "labelled"  // a label was printed
	UnitConfirmed UnitState = "confirmed" // a person said which unit it is
	UnitDelivered UnitState = "delivered" // all bytes went out; how it ended isn't known
	// UnitFailed: no key byte went out, or all of them were overwritten and read back.
	UnitFailed UnitState = "failed"
	// UnitScrapped is everything else that ends a unit; a person says so.
	UnitScrapped UnitState = "scrapped"
)

// UnitStates lists all states in the order in which reports show them.
var UnitStates = []UnitState{UnitReserved, UnitWriting, UnitDelivered, UnitVerified, UnitLabelled, UnitConfirmed, UnitFailed, UnitScrapped}

// Live reports whether the unit binds its device: a device has at most one live
// unit.
func (s UnitState) Live() bool { return s != UnitFailed && s != UnitScrapped && s != "" }

// actions are the events of the states that units come to.
func (s UnitState) action() string {
	return map[UnitState]string{
		UnitReserved: ActionReserveUnit, UnitWriting: ActionWriteUnit, UnitVerified: ActionVerifyUnit,
		UnitLabelled: ActionLabelUnit, UnitConfirmed: ActionConfirmUnit, UnitDelivered: ActionDeliverUnit,
		UnitFailed: ActionFailUnit, UnitScrapped: ActionScrapUnit,
	}[s]
}

// unitMoves are the states that a unit may come to from each.
var unitMoves = map[UnitState][]UnitState{
	UnitReserved:  {UnitWriting, UnitDelivered, UnitFailed, UnitScrapped},
	UnitWriting:   {UnitWriting, UnitVerified, UnitDelivered, UnitFailed, UnitScrapped},
	UnitDelivered: {UnitVerified, UnitFailed, UnitScrapped},
	UnitVerified:  {UnitLabelled, UnitConfirmed, UnitFailed, UnitScrapped},
	UnitLabelled:  {UnitLabelled, UnitConfirmed, UnitFailed, UnitScrapped},
	UnitConfirmed: {UnitScrapped},
}

// Owner is the process that works on a unit.
type Owner struct {
	Station string
	Boot    string // boot id of its machine
	PID     int
}

// Unit is the one physical thing that a device's image went to.
type Unit struct {
	Lot    string
	Row    int
	Device Identity
	Serial string
	Number int // from 1 within the lot; given by the ledger

	State  UnitState
	Reason string // code of a failure, or why it was scrapped

	Fingerprint string   // SHA-256 of the key's SPKI, hexadecimal
	Marker      [16]byte // random; written onto the medium while it is worked on
	Medium      string   // what it was written to
	Slot        string
	Recipient   string // whom it was handed to
	Operator    string
	Label       string // the printed code
	Client      string // who took it over HTTP
	ETag        string
	ImageSHA256 string
	Owner       Owner

	Created, Updated time.Time // UTC
}

// UnitTakenError says that the device has a live unit.
type UnitTakenError struct{ Unit *Unit }

func (e *UnitTakenError) Error() string {
	where := e.Unit.Medium
	if where == "" {
		where = e.Unit.Recipient
	}
	if where != "" {
		where = " (" + where + ")"
	}
	return fmt.Sprintf("device %s has unit %d%s, which is %s since %s", e.Unit.Device, e.Unit.Number, where,
		e.Unit.State, e.Unit.Updated.Format(time.RFC3339))
}

// Hint says what to do.
func (e *UnitTakenError) Hint() string {
	return fmt.Sprintf("Two units with one key are clones. If that unit can't be used any more, say so: "+
		"`keymill unit scrap %s %s --reason ...`.", e.Unit.Lot, e.Unit.Device.Name())
}

// ErrUnitBusy says that a change would take the key from under a unit that is
// being written.
var ErrUnitBusy = errors.New("the device's image is being written to a unit")

// UnitChange is a change of a unit and the event that says so.
type UnitChange struct {
	// From is the state that the unit must have; "" makes a new one.
	From UnitState
	// Unit is what the ledger shall hold afterwards; a new unit's Number is given
	// by the ledger.
	Unit *Unit
	// States are the states of the device's record that let a unit be made.
	States []State
	// Event needs all fields but those that the ledger gives, and Unit.
	Event Event
}

// UnitLedger keeps units.
type UnitLedger interface {
	Committer
	// ChangeUnit writes a change and its event in one transaction. A new unit
	// needs the device's record in one of the States, with the unit's
	// fingerprint, else ErrLost is returned; and no live unit of the device, else
	// a *UnitTakenError. Another change needs the unit in state From, else ErrLost.
	ChangeUnit(ctx context.Context, c UnitChange) error
}

// ReserveUnit binds a device to a unit before anything of it leaves. unit says
// where to; its number, fingerprint and device are filled in. The device must be
// in one of the states, released where none is given.
func (t *Transitions) ReserveUnit(ctx context.Context, ledger UnitLedger, rec *Record, unit *Unit, states ...State) error {
	if len(states) == 0 {
		states = []State{Released}
	}
	next := *unit
	next.Lot, next.Row, next.Device, next.State = rec.Lot, rec.Row, rec.Identity, UnitReserved
	next.Serial, _ = rec.Attr("serial")
	next.Fingerprint = rec.Fingerprint()
	event := Event{SPKI: next.Fingerprint}
	t.describe(rec, &event)
	return t.changeUnit(ctx, ledger, "", unit, next, states, event)
}

// RebuildUnit records a unit that a pack's hand-out mark tells of and the ledger
// has forgotten: delivered, if it binds the device, else scrapped. unit has its
// number, and what the mark says.
func (t *Transitions) RebuildUnit(ctx context.Context, ledger UnitLedger, rec *Record, unit *Unit, bound bool) error {
	next := *unit
	next.Lot, next.Row, next.Device, next.State = rec.Lot, rec.Row, rec.Identity, UnitDelivered
	if !bound {
		next.State, next.Reason = UnitScrapped, "an earlier hand-out, known from the pack's mark alone"
	}
	next.Serial, _ = rec.Attr("serial")
	next.Fingerprint = rec.Fingerprint()
	event := Event{SPKI: next.Fingerprint, Action: ActionTakeBackUnit}
	t.describe(rec, &event)
	return t.changeUnit(ctx, ledger, "", unit, next, States, event)
}

// MoveUnit brings a unit to its next state, or records more about it in the
// state that it has. ErrLost says that it is not what it was any more.
func (t *Transitions) MoveUnit(ctx context.Context, ledger UnitLedger, rec *Record, unit *Unit, to UnitState, change func(*Unit)) error {
	allowed := false
	for _, s := range unitMoves[unit.State] {
		allowed = allowed || s == to
	}
	if !allowed {
		return fmt.Errorf("unit %d of lot %s is %s: it can't become %s", unit.Number, unit.Lot, unit.State, to)
	}
	next := *unit
	next.State, next.Reason = to, ""
	if change != nil {
		change(&next)
	}
	event := Event{SPKI: unit.Fingerprint}
	t.describe(rec, &event)
	return t.changeUnit(ctx, ledger, unit.State, unit, next, nil, event)
}

// changeUnit commits next and puts it into unit once it is durable.
func (t *Transitions) changeUnit(ctx context.Context, ledger UnitLedger, from UnitState, unit *Unit, next Unit, states []State, event Event) error {
	if event.Reason = next.Reason; event.Action == "" {
		event.Action = next.State.action()
	}
	event.Unit, event.Medium, event.Slot, event.Operator = next.Number, next.Medium, next.Slot, next.Operator
	if next.Recipient != "" {
		event.Facts = append(event.Facts, Attr{"recipient", next.Recipient})
	}
	err := ledger.ChangeUnit(context.WithoutCancel(ctx), UnitChange{From: from, Unit: &next, States: states, Event: event})
	_, taken := errors.AsType[*UnitTakenError](err)
	if err != nil && !taken && !errors.Is(err, ErrLost) {
		return storageOutage("ledger", err)
	}
	if err == nil {
		*unit = next
	}
	return err
}
