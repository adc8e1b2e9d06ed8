package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources/allocation"
)

// takenBack is the JSON of `allocate --undo --json`.
type takenBack struct {
	Lot    string       `json:"lot"`
	Ranges []allocRange `json:"ranges"`
	Undone bool         `json:"undone"` // false: a dry run
}

// deallocate takes back what a lot got that was never planned. With a planned
// one, undo does, as its keys must go first.
func (a *app) deallocate(cmd *cobra.Command, lot string, flags allocateFlags) error {
	if flags.count != 0 || flags.output != "" || flags.reuse {
		return fault.Usagef("--undo takes back; it does not go with --count, --output or --reuse")
	}
	ctx := cmd.Context()
	known, err := a.openLedger(cmd)
	if err != nil {
		return err
	}
	defer known.Close()
	if _, err := known.Lot(ctx, lot); !errors.Is(err, ledger.ErrNoLot) {
		if err == nil {
			err = fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("lot %s was planned; nothing was changed", lot), "`keymill undo %s` takes it back, its keys and identifiers.", lot))
		}
		return err
	}
	all, err := known.AllocatedTo(ctx, lot)
	if err != nil {
		return err
	}
	result := takenBack{Lot: lot, Ranges: []allocRange{}}
	for _, r := range all {
		if r.Undone.IsZero() {
			result.Ranges = append(result.Ranges, rangeOf(r.Name, uint64(r.First), uint64(r.Last)))
		}
	}
	if len(result.Ranges) == 0 {
		return fault.Usagef("lot %s has nothing that was allocated", lot)
	}
	if !flags.dryRun {
		if err := a.takeBack(cmd, known, lot, len(result.Ranges)); err != nil {
			return err
		}
		result.Undone = true
	}
	if a.json {
		return a.writeJSON(result)
	}
	for _, r := range result.Ranges {
		a.printf("%s\n", r)
	}
	if flags.dryRun {
		a.printf("%s of lot %s; nothing was changed\n", say.Count(len(result.Ranges), "range"), lot)
		return nil
	}
	a.printf("%s taken back from lot %s. Its manifest must not be run any more.\n", say.Count(len(result.Ranges), "range"), lot)
	return nil
}

func (a *app) takeBack(cmd *cobra.Command, known *ledger.Ledger, lot string, ranges int) error {
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	if _, err := known.Deallocate(cmd.Context(), lot); err != nil {
		return err
	}
	_, err = known.Append(cmd.Context(), pipeline.Event{
		Station: cfg.Audit.Station, Action: pipeline.ActionAllocate, Reason: "taken back", Facts: station.Facts(map[string]string{
			"lot": lot, "ranges": strconv.Itoa(ranges), "operator": cfg.Audit.Operator,
		}),
	})
	return err
}

// String shows addresses as such.
func (r allocRange) String() string {
	if r.Space == allocation.MACSpace {
		return r.First + ".." + r.Last
	}
	return fmt.Sprintf("%s: %s..%s", r.Space, r.First, r.Last)
}
