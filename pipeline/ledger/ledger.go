// Package ledger keeps lots, device records and events in a database: SQLite in
// one file by default. Every state change is a compare-and-set on one record,
// written in one transaction with its event; the changes of many workers share
// one durable commit.
package ledger

import (
	"context"
	"errors"
	"iter"

	"keymill/pipeline"
)

// ErrNoLot says that the ledger holds no lot of that name.
var ErrNoLot = errors.New("the ledger has no such lot")

// ErrNoRecord says that the lot holds no device of that identity.
var ErrNoRecord = errors.New("the lot has no such device")

// ErrLotExists is returned by Plan for a name that is taken.
var ErrLotExists = errors.New("the ledger has a lot of this name already")

// ErrLotClosed is returned by CloseLot for a lot that is closed already.
var ErrLotClosed = errors.New("the lot is closed already")

// Holder says which lot holds an identity.
type Holder struct {
	Lot   string
	Row   int // manifest row in that lot
	State pipeline.State
}

// PackedRef is one overlay that the ledger believes to lie in a lot's pack.
type PackedRef struct {
	Identity pipeline.IdentitySum
	Pack     pipeline.PackRef
	Row      int
	State    pipeline.State
}

// Ledger is an open ledger. All methods may be called by many goroutines at
// once, and several processes may have the same ledger open. It implements
// pipeline.Ledger.
type Ledger struct{}

// Open opens the ledger at path, and makes it (mode 0600) when there is none.
// Every error is an *pipeline.Outage of pipeline.PartStorage with a hint: no
// keymill ledger, made by a newer keymill, read-only, disk full, locked.
func Open(ctx context.Context, path string) (*Ledger, error) { return nil, errors.ErrUnsupported }

// Close waits for the commits under way and closes the ledger.
func (l *Ledger) Close() error { return nil }

// Commit writes one change and its event; see pipeline.Ledger. The record is
// addressed by its Lot and Row; it must be in state c.From under
// c.Record.Lease, and superseded or not as c.Record says, else
// pipeline.ErrLost is returned and nothing is written. A context that ends
// while Commit waits ends the wait: the change may be in the ledger or not.
// Any other error is an *pipeline.Outage, after which the ledger takes no more.
func (l *Ledger) Commit(ctx context.Context, c pipeline.Change) error { return errors.ErrUnsupported }

// Append writes an event that changes no record and returns its Seq. An event
// of a lot that was never planned is refused with ErrNoLot.
func (l *Ledger) Append(ctx context.Context, e pipeline.Event) (int64, error) {
	return 0, errors.ErrUnsupported
}

// Records yields the lot's records ordered by row. With states it yields the
// records in these states that are not superseded: what there is to do. With
// none it yields all records, superseded ones included: what reports show. It
// reads page by page and holds no lock while the caller works, so a record that
// changes meanwhile is seen in the one state or the other.
func (l *Ledger) Records(ctx context.Context, lot string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error] {
	return nil
}

// Totals returns the lot's balance, superseded records counted in the state
// they had. Keys.Released counts the released records that have a key.
func (l *Ledger) Totals(ctx context.Context, lot string) (pipeline.Totals, error) {
	return pipeline.Totals{}, errors.ErrUnsupported
}

// Plan writes a lot, a planned record for each device, and the event, all or
// nothing, in memory that doesn't grow with the lot. lot.Devices must be the number of
// devices, or 0 to have it counted. A device that failed or conflicts in another lot is taken
// over: its old record is marked as superseded, and its key is what the new record Replaces. A
// device that another lot holds in any other state refuses the lot with a
// *TakenError. An error that devices yields is returned as it is.
func (l *Ledger) Plan(ctx context.Context, lot pipeline.Lot, event pipeline.Event, devices iter.Seq2[pipeline.Device, error]) error {
	return errors.ErrUnsupported
}

// TakenError says which devices of a lot other lots (or earlier rows of the
// same lot) hold.
type TakenError struct {
	Count   int           // how many there are
	Devices []TakenDevice // the first of them, 10 at most
}

// TakenDevice is a device that can't be planned.
type TakenDevice struct {
	Row      int // in the manifest that is being planned
	Identity pipeline.Identity
	Holder   Holder
}

func (e *TakenError) Error() string { return "taken" }

// Lot returns one lot. The error is ErrNoLot when there is none of that name.
func (l *Ledger) Lot(ctx context.Context, name string) (pipeline.Lot, error) {
	return pipeline.Lot{}, errors.ErrUnsupported
}

// Lots returns all lots in the order in which they were planned.
func (l *Ledger) Lots(ctx context.Context) ([]pipeline.Lot, error) {
	return nil, errors.ErrUnsupported
}

// CloseLot marks the lot as closed, with its event. The error is ErrNoLot or ErrLotClosed.
func (l *Ledger) CloseLot(ctx context.Context, name string, event pipeline.Event) error {
	return errors.ErrUnsupported
}

// Taken returns which of the identities are held by lots other than lot. A
// device that failed or conflicts elsewhere is not held: Plan takes it over.
func (l *Ledger) Taken(ctx context.Context, lot string, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]Holder, error) {
	return nil, errors.ErrUnsupported
}

// Find returns the records of a lot ("" for all lots) that have value as one of
// their identity values or as their attribute "serial", superseded ones last.
// Letters may be of either case where the recorded value is lower case, as MACs are.
func (l *Ledger) Find(ctx context.Context, lot, value string) ([]*pipeline.Record, error) {
	return nil, errors.ErrUnsupported
}

// Record returns the lot's record of one identity, superseded or not. The error
// is ErrNoLot or ErrNoRecord when there is none.
func (l *Ledger) Record(ctx context.Context, lot string, id pipeline.IdentitySum) (*pipeline.Record, error) {
	return nil, errors.ErrUnsupported
}

// Packed yields all overlays that the ledger believes to lie in the lot's pack,
// ordered by offset, superseded records included. It reads one snapshot: the
// caller should not dawdle, as the write-ahead log can't shrink meanwhile.
func (l *Ledger) Packed(ctx context.Context, lot string) iter.Seq2[PackedRef, error] { return nil }

// SupersededKeys yields the records that the lot by ("" for any) has superseded
// and whose keys still lie in their own lots' packs: the caller destroys these and
// commits that with the records' states unchanged.
func (l *Ledger) SupersededKeys(ctx context.Context, by string) iter.Seq2[*pipeline.Record, error] {
	return nil
}

// Events yields the events of a lot ("" for all) by station and Seq, page by
// page, without a lock while the caller works.
func (l *Ledger) Events(ctx context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error] {
	return nil
}
