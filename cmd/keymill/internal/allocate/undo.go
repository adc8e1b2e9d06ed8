package allocate

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources/allocation"
)

// TakenBack is the JSON of `allocate --undo --json`.
type TakenBack struct {
	Lot    string  `json:"lot"`
	Ranges []Range `json:"ranges"`
	Undone bool    `json:"undone"` // false: a dry run
}

// TakeBack takes back what a lot got that was never planned. With a planned one,
// undo does, as its keys must go first.
func TakeBack(ctx context.Context, cfg *config.Config, lot string, dry bool) (TakenBack, error) {
	result := TakenBack{Lot: lot, Ranges: []Range{}}
	known, err := station.OpenLedger(ctx, cfg)
	if err != nil {
		return result, err
	}
	defer known.Close()
	if _, err := known.Lot(ctx, lot); !errors.Is(err, ledger.ErrNoLot) {
		if err == nil {
			err = fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("lot %s was planned; nothing was changed", lot), "`keymill undo %s` takes it back, its keys and identifiers.", lot))
		}
		return result, err
	}
	all, err := known.AllocatedTo(ctx, lot)
	if err != nil {
		return result, err
	}
	for _, r := range all {
		if r.Undone.IsZero() {
			result.Ranges = append(result.Ranges, rangeOf(r.Name, uint64(r.First), uint64(r.Last)))
		}
	}
	if len(result.Ranges) == 0 {
		return result, fault.Usagef("lot %s has nothing that was allocated", lot)
	}
	if dry {
		return result, nil
	}
	if _, err := known.Deallocate(ctx, lot); err != nil {
		return result, err
	}
	result.Undone = true
	_, err = known.Append(ctx, pipeline.Event{
		Station: cfg.Audit.Station, Action: pipeline.ActionAllocate, Reason: "taken back", Facts: station.Facts(map[string]string{
			"lot": lot, "ranges": strconv.Itoa(len(result.Ranges)), "operator": cfg.Audit.Operator,
		}),
	})
	return result, err
}

// String shows addresses as such.
func (r Range) String() string {
	if r.Space == allocation.MACSpace {
		return r.First + ".." + r.Last
	}
	return fmt.Sprintf("%s: %s..%s", r.Space, r.First, r.Last)
}
