package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/allocate"
)

func (a *app) allocateCmd() *cobra.Command {
	var flags allocate.Wanted
	var dryRun, undo bool
	cmd := &cobra.Command{
		Use:   "allocate LOT --count N",
		Short: "Hand out MAC addresses and serial numbers to a new manifest",
		Long: `Allocate takes the lowest free addresses and serial numbers for a lot's devices,
records them in the ledger so that they are never given out again, and writes the
lot's manifest. Devices of manifests made elsewhere are passed over. What lots had
that were undone stays theirs unless --reuse is given; --undo takes back what a lot
got that was never run, such as one with a wrong --count.

A range is an OUI (00:1b:63), a block as IEEE assigns them (00:1b:63:10:00:00/28) or
FIRST..LAST. A serial number is text with fields: {seq:N}, once, for the number in N
digits; {luhn} right after it for a check digit; {yyyy} {yy} {mm} {dd} {ww} for the
local date; {lot}.

` + exitCodesHelp,
		Example: "  keymill allocate 2026-W47 --count 5000 --mac 00:1b:63:10:00:00/28 --serial 'KM{yy}{ww}-{seq:5}'\n" +
			"  keymill allocate 2026-W47 --count 5000 --mac-attributes mac,wifi_mac --attr part_no=KM-100 -o w47.csv\n" +
			"  keymill allocate 2026-W47 --count 5000 --dry-run --json\n" +
			"  keymill allocate 2026-W47 --undo --dry-run",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if undo {
				return a.deallocate(cmd, args[0], flags, dryRun)
			}
			return a.allocate(cmd, args[0], flags, dryRun)
		},
	}
	cmd.Flags().IntVar(&flags.Count, "count", 0, "devices of the lot")
	cmd.Flags().StringVarP(&flags.Output, "output", "o", "", "manifest to write, .csv or .xlsx, or - for standard output (default LOT.csv)")
	cmd.Flags().StringArrayVar(&flags.Attrs, "attr", nil, "NAME=VALUE, an attribute that is the same for every device")
	cmd.Flags().BoolVar(&flags.Local, "local", false, "allow locally administered addresses")
	cmd.Flags().BoolVar(&flags.Reuse, "reuse", false, "give out again what lots had that were undone")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be given, record and write nothing")
	cmd.Flags().BoolVar(&undo, "undo", false, "take back what a lot got that was never run; --reuse gives it out again")
	addSettings(cmd, "mac", "mac-attributes", "serial", "serial-first")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) allocate(cmd *cobra.Command, lot string, flags allocate.Wanted, dryRun bool) error {
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	flags.Lot, flags.Stdout = lot, a.out
	var granted *allocate.Granted
	if dryRun {
		granted, err = allocate.Propose(cmd.Context(), cfg, flags)
	} else {
		granted, err = allocate.HandOut(cmd.Context(), cfg, flags)
	}
	if err != nil || granted.Manifest == "-" {
		return err
	}
	return a.printAllocation(granted)
}
