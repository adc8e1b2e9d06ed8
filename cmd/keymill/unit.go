package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) unitCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unit",
		Short: "Where devices' images went: one unit for each device",
		Long: `A unit is the one physical thing that a device's image went to: a medium in a slot, a
file that was handed out, a board. A device has one at most that is neither failed nor
scrapped: two units with one key are clones.`,
		Example: "  keymill unit list 2026-W47\n  keymill unit scrap 2026-W47 SN0001 --reason 'card lost'",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.unitListCmd(), a.unitShowCmd(), a.unitScrapCmd(), a.unitImportCmd())
	return cmd
}

func (a *app) unitListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list LOT",
		Short:   "List a lot's units",
		Long:    "List shows every unit of a lot, the ended ones too, by number.\n\n" + exitCodesHelp,
		Example: "  keymill unit list 2026-W47\n  keymill unit list 2026-W47 --json | jq -r '.[] | select(.state == \"delivered\") | .unit'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.openLot(cmd, args[0])
			if err != nil {
				return err
			}
			defer known.Close()
			list, err := known.UnitList(cmd.Context())
			if err != nil {
				return err
			}
			return a.printUnits(list)
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) unitShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show LOT DEVICE",
		Short:   "Show the units that a device had",
		Long:    "Show lists the units that a device ever had, the oldest first.\n\n" + exitCodesHelp,
		Example: "  keymill unit show 2026-W47 SN0001",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.openLot(cmd, args[0])
			if err != nil {
				return err
			}
			defer known.Close()
			rec, err := known.Device(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			list, err := known.UnitsOfDevice(cmd.Context(), rec)
			if err != nil {
				return err
			}
			return a.printUnits(list)
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printUnits(list []station.UnitView) error {
	if a.json {
		return a.writeJSON(list)
	}
	if len(list) == 0 {
		a.printf("No unit yet.\n")
	}
	for _, u := range list {
		where := cmp.Or(u.Recipient, u.Medium, "-")
		if u.Slot != "" {
			where += ", slot " + u.Slot
		}
		reason := ""
		if u.Reason != "" {
			reason = " (" + u.Reason + ")"
		}
		a.printf("%5d  row %-6d %-24s %s%s  %s  %s\n", u.Unit, u.Row, u.Name, u.State, reason, where, u.Updated)
	}
	return nil
}

func (a *app) unitScrapCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "scrap LOT DEVICE --reason R",
		Short: "Say that a device's unit is gone, so that the device can have another one",
		Long: `Scrap ends the device's unit, whatever state it is in, and records who said why. The key
stays: destroy the medium first, or two units will have it. Where the medium may be in
other hands, give the device a new key instead: ` + "`keymill retry LOT --rekey DEVICE`.\n\n" + exitCodesHelp,
		Example: "  keymill unit scrap 2026-W47 SN0001 --reason 'card broken, shredded'",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return fault.Usagef("unit scrap needs --reason: it is recorded")
			}
			known, err := a.openLot(cmd, args[0])
			if err != nil {
				return err
			}
			defer known.Close()
			rec, err := known.Device(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			unit, err := known.ScrapUnit(cmd.Context(), rec, reason)
			if err != nil {
				return err
			}
			if a.json {
				list, err := known.UnitsOfDevice(cmd.Context(), rec)
				if err != nil {
					return err
				}
				return a.printUnits(list)
			}
			a.printf("Unit %d of %s is scrapped. Destroy its medium, if that is not done.\n", unit.Number, rec.Identity)
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is recorded")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) unitImportCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import LOT FILE",
		Short: "Take in what a gang programmer did with devices' images",
		Long: `Import reads a CSV file with the columns device, result, medium and time: which device's
image went to which medium, and how it ended (ok or failed). device is any identity value
or the serial, time is RFC 3339; medium and time may be empty. Devices whose images were
served or streamed get their units' ends; others get a unit. All problems of a file are
named at once, and then nothing is changed.

` + exitCodesHelp,
		Example: "  keymill unit import 2026-W47 programmer.csv",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.openLot(cmd, args[0])
			if err != nil {
				return err
			}
			defer known.Close()
			file, err := os.Open(args[1])
			if err != nil {
				return fault.As(fault.Usage, err)
			}
			defer file.Close()
			done, err := known.ImportUnits(cmd.Context(), file)
			if bad, ok := errors.AsType[*station.ImportError](err); ok {
				for _, p := range bad.Problems {
					fmt.Fprintf(a.err, "line %d: %s\n", p.Line, p.Text)
				}
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(done)
			}
			a.printf("%d units verified, %d failed, %d as before.\n", done.Verified, done.Failed, done.Same)
			return nil
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}
