package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/allocate"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
)

func (a *app) printAllocation(g *allocate.Granted) error {
	if g.Low {
		fmt.Fprintf(a.err, "The pool has room for %s only: fewer than three more lots of this size. Order or configure more.\n", say.Count(int(g.Left), "further device"))
	}
	if a.json {
		return a.writeJSON(g)
	}
	done := "Wrote " + g.Manifest
	if g.Manifest == "" {
		done = "Would write"
	}
	a.printf("%s: %s of lot %s\n  first  %s\n  last   %s\n", done, say.Count(g.Devices, "device"), g.Lot, g.First, g.Last)
	if g.PassedOver > 0 {
		a.printf("%s passed over: devices of the ledger have them.\n", say.Count(int(g.PassedOver), "identifier"))
	}
	a.printf("%s left after that.\n", say.Count(int(g.Left), "device"))
	return nil
}

// deallocate takes back what a lot got that was never planned, and says what.
func (a *app) deallocate(cmd *cobra.Command, lot string, flags allocate.Wanted, dry bool) error {
	if flags.Count != 0 || flags.Output != "" || flags.Reuse {
		return fault.Usagef("--undo takes back; it does not go with --count, --output or --reuse")
	}
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	result, err := allocate.TakeBack(cmd.Context(), cfg, lot, dry)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(result)
	}
	for _, r := range result.Ranges {
		a.printf("%s\n", r)
	}
	if dry {
		a.printf("%s of lot %s; nothing was changed\n", say.Count(len(result.Ranges), "range"), lot)
		return nil
	}
	a.printf("%s taken back from lot %s. Its manifest must not be run any more.\n", say.Count(len(result.Ranges), "range"), lot)
	return nil
}
