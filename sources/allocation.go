package sources

import (
	"context"
	"encoding/csv"
	"io"
	"slices"

	"keymill/pipeline"
)

// Allocation is what a request got.
type Allocation struct {
	Count  int
	Grants []Grant
	// Left is how many devices more the scarcest pool has room for.
	Left uint64

	req    AllocationRequest
	macs   []span
	serial []span
	block  serialBlock
}

// Low reports whether fewer than three more lots of this size fit.
func (a *Allocation) Low() bool { return a.Left < 3*uint64(a.Count) }

// WriteCSV writes the allocation as a manifest.
func (a *Allocation) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(a.req.attributes()); err != nil {
		return err
	}
	if err := a.each(func(values []string, _ unit) error { return out.Write(values) }); err != nil {
		return err
	}
	out.Flush()
	return out.Error()
}

// unit is what a device got: its first address and its serial number, as
// numbers of their spaces.
type unit struct{ mac, serial uint64 }

// each calls do with the attributes' values of every device, valid during the
// call.
func (a *Allocation) each(do func(values []string, u unit) error) error {
	macs, serials := cursor{spans: a.macs}, cursor{spans: a.serial}
	var values []string
	for range a.Count {
		values = values[:0]
		var u unit
		for i := range a.req.MACs {
			n := macs.next(1)
			if i == 0 {
				u.mac = n
			}
			values = append(values, macFrom(n).String())
		}
		if a.req.Serial != nil {
			u.serial = serials.next(a.block.unit)
			values = append(values, a.block.serial(u.serial))
		}
		for _, attr := range a.req.Attrs {
			values = append(values, attr.Value)
		}
		if err := do(values, u); err != nil {
			return err
		}
	}
	return nil
}

// findTaken asks which of the allocation's devices the ledger holds already, and
// adds their identifiers to foreign. It reports whether there are any.
func (a *Allocation) findTaken(ctx context.Context, foreign map[string][]span) (bool, error) {
	if a.req.Taken == nil {
		return false, nil
	}
	found := false
	var sums []pipeline.IdentitySum
	var units []unit
	ask := func() error {
		if len(sums) == 0 {
			return nil
		}
		held, err := a.req.Taken(ctx, sums)
		for i, u := range units {
			if _, ok := held[sums[i]]; ok {
				found = true
				foreign[MACSpace] = append(foreign[MACSpace], span{u.mac, u.mac + max(uint64(len(a.req.MACs)), 1) - 1})
				foreign[a.block.space] = append(foreign[a.block.space], span{u.serial, u.serial + max(a.block.unit, 1) - 1})
			}
		}
		sums, units = sums[:0], units[:0]
		return err
	}
	id, at := make(pipeline.Identity, len(a.req.Identity)), make([]int, len(a.req.Identity))
	for i, name := range a.req.Identity {
		id[i].Name, at[i] = name, slices.Index(a.req.attributes(), name)
	}
	err := a.each(func(values []string, u unit) error {
		for i := range id {
			id[i].Value = values[at[i]]
		}
		sums, units = append(sums, id.Sum()), append(units, u)
		if len(sums) < takenBatch {
			return nil
		}
		return ask()
	})
	if err == nil {
		err = ask()
	}
	return found, err
}
