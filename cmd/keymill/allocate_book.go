package main

import (
	"context"
	"errors"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
)

// grantBook shows the ledger's allocations to sources.
type grantBook struct{ *ledger.Ledger }

// Grants implements sources.Register.
func (g grantBook) Grants(ctx context.Context, space string, first, last uint64) ([]sources.Grant, error) {
	all, err := g.Allocations(ctx, space, int64(first), int64(last))
	grants := make([]sources.Grant, 0, len(all))
	for _, a := range all {
		grants = append(grants, sources.Grant{
			Lot: a.Lot, Space: a.Name, First: uint64(a.First), Last: uint64(a.Last), Time: a.Created, Undone: !a.Undone.IsZero(),
		})
	}
	return grants, err
}

// Grant implements sources.Register.
func (g grantBook) Grant(ctx context.Context, grants []sources.Grant, reuse bool) error {
	wanted := make([]ledger.Allocation, 0, len(grants))
	for _, grant := range grants {
		wanted = append(wanted, ledger.Allocation{Name: grant.Space, First: int64(grant.First), Last: int64(grant.Last), Lot: grant.Lot})
	}
	err := g.Allocate(ctx, wanted, reuse)
	if errors.Is(err, ledger.ErrAllocated) {
		return sources.ErrOverlap
	}
	return err
}

// noGrants is the register where there is no ledger yet; only proposals ask it.
type noGrants struct{}

func (noGrants) Grants(context.Context, string, uint64, uint64) ([]sources.Grant, error) {
	return nil, nil
}

func (noGrants) Grant(context.Context, []sources.Grant, bool) error {
	return errors.New("there is no ledger to record in")
}

// heldIn tells which devices the ledger knows, whatever became of them: an
// address that stands on a board is gone. With reuse, undone ones are free.
func heldIn(known *ledger.Ledger, reuse bool) func(context.Context, []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error) {
	return func(ctx context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error) {
		holders, err := known.Holders(ctx, ids)
		taken := make(map[pipeline.IdentitySum]string, len(holders))
		for id, holder := range holders {
			if !reuse || holder.State != pipeline.Undone {
				taken[id] = holder.Lot
			}
		}
		return taken, err
	}
}
