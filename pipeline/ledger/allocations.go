package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// ErrAllocated is returned by Allocate for numbers that somebody has already.
var ErrAllocated = errors.New("these numbers were handed out already")

// Allocation is a range of numbers that was handed out.
type Allocation struct {
	Name        string // of the numbers: MAC addresses, a serial's pattern
	First, Last int64  // both included; a MAC address is its 48 bits as a number
	Lot         string // whom they were given to; it needn't be planned yet
	Created     time.Time
	Undone      time.Time // zero unless the lot was undone
}

// Allocate records that numbers were handed out: all of them in one transaction,
// or none and an error that is ErrAllocated, if one overlaps a recorded
// allocation of its name. With reuse those of undone lots don't count; they stay
// on record. Created and Undone are the ledger's to fill in.
func (l *Ledger) Allocate(ctx context.Context, wanted []Allocation, reuse bool) error {
	for _, w := range wanted {
		if w.Name == "" || w.Lot == "" || w.First < 0 || w.Last < w.First {
			return fmt.Errorf("numbers %d to %d of %q can't be allocated to lot %q", w.First, w.Last, w.Name, w.Lot)
		}
	}
	err := l.transact(ctx, func(tx *sql.Tx) error {
		if err := l.backend.alone(ctx, tx); err != nil {
			return err
		}
		now := l.clock().UnixMicro()
		for _, w := range wanted {
			// What this transaction has inserted counts, too.
			taken, err := collect(ctx, tx, scanAllocation, sqlAllocated, w.Name, w.First, w.Last)
			if err != nil {
				return err
			}
			for _, a := range taken {
				if a.Undone.IsZero() || !reuse {
					return fmt.Errorf("%w: numbers %d to %d of %s overlap with %d to %d, which lot %s has",
						ErrAllocated, w.First, w.Last, w.Name, a.First, a.Last, a.Lot)
				}
			}
			if _, err := tx.ExecContext(ctx, sqlAllocate, w.Name, w.First, w.Last, w.Lot, now); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// Allocations returns what was handed out of a name's numbers from first to
// last, ordered by first number, undone lots included.
func (l *Ledger) Allocations(ctx context.Context, name string, first, last int64) ([]Allocation, error) {
	all, err := collect(ctx, l.db, scanAllocation, sqlAllocated, name, first, last)
	return all, l.backend.explain(err)
}

// AllocatedTo returns what was handed out to a lot, undone or not, ordered by
// name and first number.
func (l *Ledger) AllocatedTo(ctx context.Context, lot string) ([]Allocation, error) {
	all, err := collect(ctx, l.db, scanAllocation, sqlAllocatedTo, lot)
	return all, l.backend.explain(err)
}

// Deallocate marks what was handed out to a lot as undone and returns how many
// ranges that were. Doing it again changes nothing.
func (l *Ledger) Deallocate(ctx context.Context, lot string) (int, error) {
	return l.change(ctx, sqlDeallocate, l.clock().UnixMicro(), lot)
}

func scanAllocation(rows *sql.Rows) (a Allocation, err error) {
	var created, undone int64
	err = rows.Scan(&a.Name, &a.First, &a.Last, &a.Lot, &created, &undone)
	a.Created = time.UnixMicro(created).UTC()
	if undone != 0 {
		a.Undone = time.UnixMicro(undone).UTC()
	}
	return a, err
}
