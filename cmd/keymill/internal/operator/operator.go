// Package operator is the station of the person who stands at a bench with a
// scanner, some card slots and a label printer: what is scanned, which screen
// that leads to, which unit lies in which slot, and the page that shows it. The
// server decides everything, the page only shows it. How a lot, a medium and a
// printer work is behind the small interfaces of this file.
//
//	badge -> READY -> slots (write, compare) -> label -> PASS -> confirmed
//	                    |            |            |
//	                    +- FAIL      +- FAIL      +- LINE STOPPED: verified units wait, one a slot
package operator

import (
	"context"
	"fmt"
	"time"

	"keymill/pipeline"
)

// UnitState is where a unit stands: pipeline's states by their names.
type UnitState string

// The states that a station brings units to.
const (
	Reserved  UnitState = "reserved"
	Writing   UnitState = "writing"
	Verified  UnitState = "verified"
	Labelled  UnitState = "labelled"
	Confirmed UnitState = "confirmed"
	Failed    UnitState = "failed"
	Scrapped  UnitState = "scrapped"
)

// Unit is one physical thing, and the device whose image it gets.
type Unit struct {
	Record   *pipeline.Record
	Number   int // from 1 within the lot
	State    UnitState
	Reason   string
	Marker   [16]byte
	Medium   string
	Slot     string
	Operator string
	Label    string // the printed code
	Again    bool   // an earlier unit of this device ended
	SameBoot bool   // its writing began since this machine was booted
	Created  time.Time
}

// Lot is the lot whose units the station makes. Its methods may be called by
// several goroutines. Errors that are none of the named ones mean that the ledger
// or the disk is gone.
type Lot interface {
	Name() string
	// Find returns the device with this code, by the attribute that is on the
	// units' stickers. *NotFoundError says that the lot has none.
	Find(ctx context.Context, code string) (*pipeline.Record, error)
	// Next returns the first device that has no live unit, nil after the last.
	Next(ctx context.Context) (*pipeline.Record, error)
	// Counts counts the lot's devices and units.
	Counts(ctx context.Context) (Counts, error)
	// Unfinished returns this station's units that an earlier process left:
	// reserved, writing, verified or labelled.
	Unfinished(ctx context.Context) ([]*Unit, error)
	// Live returns a device's live unit, nil if it has none.
	Live(ctx context.Context, rec *pipeline.Record) (*Unit, error)
	// Reserve binds the device to a new unit, durably, and fills in its number and
	// marker. *TakenError says that it has a live one, *NotReadyError that the
	// device's state doesn't allow it.
	Reserve(ctx context.Context, rec *pipeline.Record, slot, operator string) (*Unit, error)
	// Move brings the unit to its next state, durably, with what else is in it.
	Move(ctx context.Context, u *Unit, to UnitState) error
	// Note appends an event that changes no unit: an override, the begin or end
	// of a shift.
	Note(ctx context.Context, n Note) error
}

// Maker makes keys at the scan, in make mode. Its methods may be called by
// several goroutines.
type Maker interface {
	// Stage makes the device's key and image, durably.
	Stage(ctx context.Context, rec *pipeline.Record) (*pipeline.Record, error)
	// Release has the server preauthorize the device, and releases it. A
	// pipeline.Outage says that the server is gone for now.
	Release(ctx context.Context, rec *pipeline.Record) (*pipeline.Record, error)
}

// Counts are a lot's numbers.
type Counts struct {
	Devices   int
	Remaining int // devices without a live unit that can get one
	Live      int // units that are neither confirmed nor ended
	Made      int // confirmed units
	Failed    int // failed units
	Scrapped  int
}

// Note is an event of the station.
type Note struct {
	Action string // shift-began, shift-ended, override, reprint, learnt, calibrated
	Reason string
	Unit   *Unit // may be nil
	Slot   string
	By     string // operator or supervisor
	Facts  map[string]string
}

// NotFoundError says that no device of the lot has a code.
type NotFoundError struct {
	Code  string
	Other string // the lot that has it, if one does
}

func (e *NotFoundError) Error() string {
	if e.Other != "" {
		return fmt.Sprintf("%q belongs to lot %s", e.Code, e.Other)
	}
	return fmt.Sprintf("no device has the code %q", e.Code)
}

// TakenError says that a device has a live unit.
type TakenError struct{ Unit *Unit }

func (e *TakenError) Error() string {
	return fmt.Sprintf("the device has unit %d, which is %s", e.Unit.Number, e.Unit.State)
}

// NotReadyError says that a device's state doesn't let a unit be made.
type NotReadyError struct{ State pipeline.State }

func (e *NotReadyError) Error() string { return "the device is " + string(e.State) }

// What a medium can hold before it is written.
const (
	HoldsNothing = ""        // blank, or one FAT partition, as media are sold
	HoldsMarker  = "marker"  // a unit's marker: its writing was interrupted
	HoldsGolden  = "golden"  // some device's image of this golden image
	HoldsOwn     = "own"     // the image of the device that was asked about
	HoldsForeign = "foreign" // anything else
)

// Contents says what a medium is and holds.
type Contents struct {
	Medium string // for the ledger: port, CID, reader, as far as they are known
	Bytes  int64
	Holds  string
	Marker [16]byte // where it holds one
	Detail string   // for people
}

// Press puts images onto media. Its methods may be called by several goroutines,
// for different media.
type Press interface {
	// Need is how many bytes a medium must have.
	Need() int64
	// Look says what is on a medium, and changes nothing. rec is the device whose
	// image may be there, nil where none is expected.
	Look(ctx context.Context, path string, rec *pipeline.Record) (Contents, error)
	// Write writes and compares. A *WriteError says why it didn't.
	Write(ctx context.Context, job WriteJob) error
	// Wipe overwrites what could be a device's key on a medium, and reads it back.
	Wipe(ctx context.Context, path string) error
	// File makes the image as a file below dir, and says its SHA-256; Shred
	// overwrites and removes it.
	File(ctx context.Context, dir string, u *Unit) (path, sha256 string, err error)
	Shred(path string) error
	// Stream writes the image to a pipe's end.
	Stream(ctx context.Context, path string, u *Unit) error
}

// WriteJob is one medium to be written.
type WriteJob struct {
	Unit    *Unit
	Path    string
	Resumed bool // this unit's bytes may be on the medium
	// Check decides, with the medium held exclusively, whether it may be written.
	Check func(Contents) error
	// Begin is called once the medium is known and before the first byte goes out;
	// its error stops the writing.
	Begin func(ctx context.Context, medium string) error
	// First is called when the first byte is out.
	First    func()
	Progress func(phase string, done, total int64) // phase: write, compare, key
}

// WriteError is why a medium was not written.
type WriteError struct {
	Code    string // write, read-back, golden, unfit, interrupted, hang, pack
	KeyLeft bool   // bytes of the key may be on the medium
	Err     error
}

func (e *WriteError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *WriteError) Unwrap() error { return e.Err }

// Labeller makes labels.
type Labeller interface {
	// Label returns a unit's printed code, and what is sent to the printer.
	Label(u *Unit, sticker string) (code string, data []byte, err error)
}

// Printer prints labels. Its methods are called by one goroutine.
type Printer interface {
	// Ready asks the printer whether it could print; a *PrinterError says why not.
	Ready(ctx context.Context) error
	// Print prints one label and returns when it is out. A *PrinterError with
	// Queued says that the printer has it and prints it once it can.
	Print(ctx context.Context, name string, data []byte) error
	// Settle returns when the printer has printed what it was sent.
	Settle(ctx context.Context) error
	String() string
}

// PrinterError says why a printer doesn't print.
type PrinterError struct {
	Text   string // "is out of paper"
	Queued bool
}

func (e *PrinterError) Error() string { return "the printer " + e.Text }
