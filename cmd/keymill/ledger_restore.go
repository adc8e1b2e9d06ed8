package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) ledgerRestoreCmd() *cobra.Command {
	var manifest, lot string
	cmd := &cobra.Command{
		Use:   "restore [FILE]",
		Short: "Put a copy of the ledger back, and take up the keys that it doesn't know",
		Long: `Restore puts a copy of the ledger (see "keymill ledger backup") in the ledger's place and
keeps what was there beside it. What the lots' packs and images hold and the copy doesn't
know is compared with the server first: keys that the server knows are taken up, units
are rebuilt from the packs' hand-out marks, and only keys that nobody knows are destroyed.
If the server can't be asked, nothing is changed.

Without FILE the ledger stays: for a database that was restored from a dump, and where a
restore was interrupted. Where no copy is left, --manifest and --lot plan the lot anew and
take up what lies in its folder. "keymill help move-a-lot" leads through a move to another
machine.

` + exitCodesHelp,
		Example: "  keymill ledger restore /backup/keymill-2026-11-22.db\n" +
			"  keymill ledger restore --manifest 2026-W47.csv --lot 2026-W47 --golden golden.sdimg",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done station.Restored
			var err error
			switch {
			case manifest != "" && len(args) > 0:
				return fault.Usagef("name either a copy of the ledger or --manifest, not both")
			case manifest != "":
				if lot == "" {
					lot = files.LotName(manifest)
				}
				done, err = station.RestoreLost(cmd.Context(), a.options(cmd), manifest, lot)
			case len(args) > 0:
				done, err = station.Restore(cmd.Context(), a.options(cmd), args[0])
			default:
				done, err = station.Restore(cmd.Context(), a.options(cmd), "")
			}
			if err != nil {
				return err
			}
			return a.tellRestored(done)
		},
	}
	cmd.Flags().StringVar(&manifest, "manifest", "", "plan the lot anew from its manifest: no copy of the ledger is left")
	cmd.Flags().StringVar(&lot, "lot", "", "with --manifest: name of the lot (default: the manifest's base name)")
	addSettings(cmd, lineSettings...)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) tellRestored(done station.Restored) error {
	if a.json {
		return a.writeJSON(done)
	}
	a.printf("Ledger %s is in place.\n", done.Ledger)
	if done.Aside != "" {
		a.printf("What was there before is kept as %s.\n", done.Aside)
	}
	for _, l := range done.Lots {
		if l.Absent {
			a.printf("Lot %s: its folder is not on this machine.\n", l.Lot)
			continue
		}
		if !l.Changed() {
			a.printf("Lot %s: nothing that the ledger doesn't know.\n", l.Lot)
			continue
		}
		a.printf("Lot %s: %s taken up that the server knows, %s rebuilt, %s destroyed that nobody knows.\n", l.Lot,
			say.Count(l.Adopted, "key"), say.Count(l.Units, "unit"), say.Count(l.Destroyed, "key"))
		if l.Unclear > 0 {
			a.printf("  %s left alone: the server knows two keys of one device; see `keymill verify %s`.\n", say.Count(l.Unclear, "key"), l.Lot)
		}
		if l.Foreign > 0 {
			a.printf("  %s left alone, of devices that the lot does not have: the pack is another lot's.\n", say.Count(l.Foreign, "key"))
		}
	}
	if done.Restarted > 0 {
		a.printf("%s signed with more events than this ledger has: bundles will say that those are lost.\n", say.Count(done.Restarted, "log"))
	}
	a.printf("Go on with `keymill run`; the same command as before.\n")
	return nil
}
