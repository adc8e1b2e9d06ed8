package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/say"
	"keymill/reports"
)

func (a *app) affectedCmd() *cobra.Command {
	var flags evidence.AffectedOptions
	var check string
	var keys []string
	cmd := &cobra.Command{
		Use:   "affected",
		Short: "List the devices that a fault concerns, as a signed listing",
		Long: `Affected looks through all lots of the ledger for devices whose keys or images were
made with a golden image, a key algorithm, a firmware of the HSM, a keymill binary, or
at a time. Of several flags all must hold. It lists lots, serial numbers, units and,
where the manifest has a column market, markets; devices that were undone, or that
got another key since, are listed with their state. Where the ledger does not say
enough, a device is listed as unsure.

With -o it writes affected.jsonl, one device a line, and statement.dsse.json, which
the station signs; --check verifies them by the station's key. It looks only into this
ledger: ask each ledger that the product was made with.

` + exitCodesHelp,
		Example: "  keymill affected --golden 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 -o answer\n" +
			"  keymill affected --hsm-firmware 2.6 --from 2026-03-01 --to 2026-03-31 --json\n" +
			"  keymill affected --check answer --key station.pem",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check != "" {
				list, err := evidence.CheckList(cmd.Context(), check, keys)
				if err != nil {
					return err
				}
				return a.printCheckedList(list)
			}
			found, err := evidence.FindAffected(cmd.Context(), a.options(cmd), flags)
			if err != nil {
				return err
			}
			return a.printAffected(found, flags.Dir)
		},
	}
	cmd.Flags().StringVar(&flags.Golden, "golden", "", "SHA-256 of the unpacked golden image")
	cmd.Flags().StringVar(&flags.Algorithm, "key-algorithm", "", "algorithm of the device's key")
	cmd.Flags().StringVar(&flags.Firmware, "hsm-firmware", "", "firmware version of the HSM token that made the key")
	cmd.Flags().StringVar(&flags.Tool, "tool-sha256", "", "SHA-256 of the keymill binary")
	cmd.Flags().StringVar(&flags.From, "from", "", "made on this day (UTC), at this time, or later")
	cmd.Flags().StringVar(&flags.To, "to", "", "made on this day (UTC) or earlier; before this time")
	cmd.Flags().StringVarP(&flags.Dir, "output", "o", "", "folder of the signed listing; it must not exist yet")
	cmd.Flags().StringVar(&check, "check", "", "verify the signed listing in this folder instead")
	cmd.Flags().StringSliceVar(&keys, "key", nil, "with --check: file with a station's public key")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printAffected(found *reports.Affected, dir string) error {
	if a.json {
		devices := found.List
		if devices == nil {
			devices = []reports.AffectedDevice{}
		}
		return a.writeJSON(map[string]any{"summary": found, "devices": devices, "dir": dir})
	}
	for i := range found.List {
		d := &found.List[i]
		a.printf("%s  row %d  %s  %s  %s", reports.Printable(d.Lot), d.Row, reports.Printable(d.Serial), reports.IdentityText(d.Identity), d.State)
		if d.Market != "" {
			a.printf("  market %s", reports.Printable(d.Market))
		}
		for _, u := range d.Units {
			a.printf("  unit %d %s", u.Number, u.State)
		}
		if d.Unsure != "" {
			a.printf("  unsure: %s", d.Unsure)
		}
		a.printf("\n")
	}
	a.printf("%s affected, of %d in %s\n", say.Count(found.Devices, "device"), found.Searched.Devices, say.Count(found.Searched.Lots, "lot"))
	for _, lot := range found.Lots {
		a.printf("  lot %s: %d of %d\n", reports.Printable(lot.Lot), lot.Affected, lot.Devices)
	}
	if names := slices.Sorted(maps.Keys(found.Markets)); len(names) > 1 || len(names) == 1 && names[0] != "" {
		var parts []string
		for _, name := range names {
			label := reports.Printable(name)
			if name == "" {
				label = "none"
			}
			parts = append(parts, fmt.Sprintf("%s %d", label, found.Markets[name]))
		}
		a.printf("  markets: %s\n", strings.Join(parts, ", "))
	}
	if dir != "" {
		a.printf("Signed listing: %s\n", dir)
	}
	return nil
}

func (a *app) printCheckedList(list *reports.CheckedList) error {
	if a.json {
		return a.writeJSON(list)
	}
	a.printf("The listing is as it was signed: %s with %s, key %.16s..\n", list.File, say.Count(list.Lines, "line"), list.KeyID)
	return nil
}
