package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"
)

// Allocation is a range of numbers that was handed out.
type Allocation struct {
	Name        string // of the numbers: an OUI, a serial's pattern
	First, Last int64  // both included; a MAC address is its 48 bits as a number
	Lot         string // whom they were given to; it needn't be planned yet
	Created     time.Time
}

// Wanted asks for numbers.
type Wanted struct {
	Name        string
	First, Last int64 // where they may lie, both included
	Count       int64 // how many, without a gap; all from First to Last for a certain range
	Lot         string
}

// AllocatedError says that there is no gap of the wanted size.
type AllocatedError struct {
	Wanted  Wanted
	Largest int64      // numbers in the largest gap that is left, 0 if there is none
	Holder  Allocation // the first allocation in the way
}

func (e *AllocatedError) Error() string {
	w := e.Wanted
	if w.Count == w.Last-w.First+1 {
		return fmt.Sprintf("numbers %d to %d of %s overlap with %d to %d, which lot %s has",
			w.First, w.Last, w.Name, e.Holder.First, e.Holder.Last, e.Holder.Lot)
	}
	return fmt.Sprintf("%s has no %d numbers in a row left between %d and %d, only %d", w.Name, w.Count, w.First, w.Last, e.Largest)
}

// Allocate hands out the lowest gap that holds the wanted numbers and records
// it, so that no number is ever handed out twice. It returns an
// *AllocatedError when there is none.
func (l *Ledger) Allocate(ctx context.Context, w Wanted) (Allocation, error) {
	if w.Count < 1 || w.First < 0 || w.Last < w.First || w.Count > w.Last-w.First+1 {
		return Allocation{}, fmt.Errorf("%d numbers from %d to %d can't be allocated", w.Count, w.First, w.Last)
	}
	a := Allocation{Name: w.Name, Lot: w.Lot}
	err := l.backend.transact(ctx, func(tx *sql.Tx) error {
		if err := l.backend.alone(ctx, tx); err != nil {
			return err
		}
		taken, err := collect(ctx, tx, scanAllocation, sqlAllocated, w.Name, w.First, w.Last)
		if err != nil {
			return err
		}
		if a.First, err = w.gap(taken); err != nil {
			return err
		}
		now := l.clock().UnixMicro()
		a.Last, a.Created = a.First+w.Count-1, time.UnixMicro(now).UTC()
		_, err = tx.ExecContext(ctx, sqlAllocate, a.Name, a.First, a.Last, a.Lot, now)
		return err
	})
	if err != nil {
		return Allocation{}, l.backend.explain(err)
	}
	return a, nil
}

// gap returns the first number of the lowest gap that is large enough between
// allocations, which are in their order.
func (w Wanted) gap(taken []Allocation) (int64, error) {
	from, largest := w.First, int64(0)
	for _, a := range taken {
		largest = max(largest, a.First-from)
		if a.First-from >= w.Count {
			return from, nil
		}
		if a.Last >= w.Last {
			return 0, &AllocatedError{Wanted: w, Largest: largest, Holder: taken[0]}
		}
		from = max(from, a.Last+1)
	}
	if w.Last-from+1 >= w.Count {
		return from, nil
	}
	return 0, &AllocatedError{Wanted: w, Largest: max(largest, w.Last-from+1), Holder: taken[0]}
}

// Allocations returns what was handed out of the numbers of a name, in order.
func (l *Ledger) Allocations(ctx context.Context, name string) ([]Allocation, error) {
	all, err := collect(ctx, l.db, scanAllocation, sqlAllocated, name, int64(math.MinInt64), int64(math.MaxInt64))
	return all, l.backend.explain(err)
}

// Deallocate makes the numbers that a lot has of a name free again, for lots
// that were undone; it is for the caller to be sure and to append an event. It
// returns how many ranges there were.
func (l *Ledger) Deallocate(ctx context.Context, name, lot string) (int, error) {
	return l.change(ctx, sqlDeallocate, name, lot)
}

func scanAllocation(rows *sql.Rows) (a Allocation, err error) {
	var created int64
	err = rows.Scan(&a.Name, &a.First, &a.Last, &a.Lot, &created)
	a.Created = time.UnixMicro(created).UTC()
	return a, err
}
