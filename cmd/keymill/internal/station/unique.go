package station

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// uniqueValues tells which values of attributes that must be unique devices of
// other lots have. The ledger knows it of lots that were planned with the
// attribute among their unique ones; the devices of other lots, such as those of
// older programs, are looked through once, when the first value is asked for.
type uniqueValues struct {
	ledger *ledger.Ledger
	lot    string // its own devices don't count
	seed   maphash.Seed
	others map[string]map[uint64]ledger.Holder // by attribute, then the value's hash
}

// held is sources.Config.Held.
func (u *uniqueValues) held(ctx context.Context, values []pipeline.Attr) (map[pipeline.Attr]string, error) {
	byName := map[string][]string{}
	for _, v := range values {
		byName[v.Name] = append(byName[v.Name], v.Value)
	}
	found := map[pipeline.Attr]string{}
	for name, some := range byName {
		if err := u.lookThrough(ctx, name); err != nil {
			return nil, err
		}
		holders, err := u.ledger.UniqueHolders(ctx, name, some)
		if err != nil {
			return nil, err
		}
		for _, value := range some {
			holder, ok := holders[value]
			if !ok || holder.Lot == u.lot {
				holder, ok = u.others[name][maphash.String(u.seed, value)]
			}
			if ok {
				found[pipeline.Attr{Name: name, Value: value}] = fmt.Sprintf("lot %s, row %d, %s", holder.Lot, holder.Row, holder.State)
			}
		}
	}
	return found, nil
}

// lookThrough notes the attribute's values in lots that were planned without it.
func (u *uniqueValues) lookThrough(ctx context.Context, attr string) error {
	if u.others == nil {
		u.seed, u.others = maphash.MakeSeed(), map[string]map[uint64]ledger.Holder{}
	}
	if u.others[attr] != nil {
		return nil
	}
	values := map[uint64]ledger.Holder{}
	lots, err := u.ledger.Lots(ctx)
	if err != nil {
		return err
	}
	for _, lot := range lots {
		if lot.Name == u.lot || slices.Contains(lot.Unique, attr) {
			continue
		}
		for record, err := range u.ledger.Records(ctx, lot.Name) {
			if err != nil {
				return err
			}
			switch record.State {
			case pipeline.Failed, pipeline.Conflicted, pipeline.Undone: // they are done with, see ledger.UniqueHolders
				continue
			}
			if value, ok := record.Attr(attr); ok && value != "" && record.Superseded == "" {
				values[maphash.String(u.seed, value)] = ledger.Holder{Lot: lot.Name, Row: record.Row, State: record.State}
			}
		}
	}
	u.others[attr] = values
	return nil
}
