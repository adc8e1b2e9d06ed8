package allocate

import (
	"context"
	"errors"
	"iter"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources/allocation"
)

// grantBook shows the ledger's allocations to sources.
type grantBook struct{ *ledger.Ledger }

// Grants implements allocation.Register.
func (g grantBook) Grants(ctx context.Context, space string, first, last uint64) ([]allocation.Grant, error) {
	all, err := g.Allocations(ctx, space, int64(first), int64(last))
	grants := make([]allocation.Grant, 0, len(all))
	for _, a := range all {
		grants = append(grants, allocation.Grant{
			Lot: a.Lot, Space: a.Name, First: uint64(a.First), Last: uint64(a.Last), Time: a.Created, Undone: !a.Undone.IsZero(),
		})
	}
	return grants, err
}

// Grant implements allocation.Register.
func (g grantBook) Grant(ctx context.Context, grants []allocation.Grant, reuse bool) error {
	wanted := make([]ledger.Allocation, 0, len(grants))
	for _, grant := range grants {
		wanted = append(wanted, ledger.Allocation{Name: grant.Space, First: int64(grant.First), Last: int64(grant.Last), Lot: grant.Lot})
	}
	err := g.Allocate(ctx, wanted, reuse)
	if errors.Is(err, ledger.ErrAllocated) {
		return allocation.ErrOverlap
	}
	return err
}

// noGrants is the register where there is no ledger yet; only proposals ask it.
type noGrants struct{}

func (noGrants) Grants(context.Context, string, uint64, uint64) ([]allocation.Grant, error) {
	return nil, nil
}

func (noGrants) Grant(context.Context, []allocation.Grant, bool) error {
	return errors.New("there is no ledger to record in")
}

// heldIn yields every attribute value of the devices that the ledger ever had,
// whatever became of them: an address that stands on a board is gone. With
// reuse, those of undone devices are free.
func heldIn(known *ledger.Ledger, reuse bool) func(context.Context) iter.Seq2[string, error] {
	return func(ctx context.Context) iter.Seq2[string, error] {
		devices := known.Attrs(ctx)
		if reuse {
			devices = liveAttrs(ctx, known)
		}
		return func(yield func(string, error) bool) {
			for attrs, err := range devices {
				if err != nil {
					yield("", err)
					return
				}
				for _, attr := range attrs {
					if !yield(attr.Value, nil) {
						return
					}
				}
			}
		}
	}
}

// liveAttrs yields the attributes of the devices that were not undone.
func liveAttrs(ctx context.Context, known *ledger.Ledger) iter.Seq2[[]pipeline.Attr, error] {
	return func(yield func([]pipeline.Attr, error) bool) {
		lots, err := known.Lots(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, lot := range lots {
			for record, err := range known.Records(ctx, lot.Name) {
				if err != nil {
					yield(nil, err)
					return
				}
				if record.State != pipeline.Undone && !yield(record.Attrs, nil) {
					return
				}
			}
		}
	}
}
