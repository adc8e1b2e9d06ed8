package allocation

import (
	"encoding/csv"
	"io"

	"keymill/sources"
)

// Allocation is what a request got.
type Allocation struct {
	Count  int
	Grants []Grant
	// Left is how many devices more the scarcest pool has room for.
	Left uint64
	// PassedOver is how many addresses and serial numbers below the last one
	// taken devices of the ledger hold though nobody was given them here.
	PassedOver uint64

	req    Request
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
	if err := a.each(out.Write); err != nil {
		return err
	}
	out.Flush()
	return out.Error()
}

// each calls do with the attributes' values of every device, valid during the
// call.
func (a *Allocation) each(do func(values []string) error) error {
	macs, serials := cursor{spans: a.macs}, cursor{spans: a.serial}
	var values []string
	for range a.Count {
		values = values[:0]
		for range a.req.MACs {
			values = append(values, sources.MACFromUint64(macs.next(1)).String())
		}
		if a.req.Serial != nil {
			values = append(values, a.block.serial(serials.next(a.block.unit)))
		}
		for _, attr := range a.req.Attrs {
			values = append(values, attr.Value)
		}
		if err := do(values); err != nil {
			return err
		}
	}
	return nil
}
