package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/upkeep"
)

func (a *app) ledgerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ledger",
		Short:   "Maintain the ledger: back up, check, shrink, destroy what is no longer needed",
		Example: "  keymill ledger check\n  keymill ledger backup /backup/keymill.db",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.ledgerBackupCmd(), a.ledgerRestoreCmd(), a.ledgerCheckCmd(), a.ledgerVacuumCmd(), a.ledgerPruneCmd(), a.ledgerUpkeepCmd())
	return cmd
}

func (a *app) ledgerBackupCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a copy of the ledger as it stands, while lots go on",
		Long: `Backup writes a new file, whole or not at all. It is a ledger; "keymill ledger check"
reads it. It holds no private keys: packs and images are not in it. A ledger in
PostgreSQL is backed up with PostgreSQL's own means.`,
		Example: "  keymill ledger backup /backup/keymill-$(date +%F).db",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.openLedger(cmd)
			if err != nil {
				return err
			}
			defer known.Close()
			if err := known.Backup(cmd.Context(), args[0]); err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(map[string]string{"backup": args[0]})
			}
			a.printf("Wrote %s. Check it: keymill ledger check --ledger %s\n", args[0], args[0])
			return nil
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) ledgerCheckCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read the whole ledger and say whether it is sound",
		Long: `Check reads everything: the database's structure, every station's log (no gaps, each
leaf the hash of its event), every lot's balance, every identity. It ends with 7 when
something is wrong. Lots go on meanwhile.`,
		Example: "  keymill ledger check\n  keymill ledger check --ledger /backup/keymill-2026-11-22.db --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := a.openLedger(cmd)
			if err != nil {
				return err
			}
			defer known.Close()
			found, err := upkeep.Check(cmd.Context(), known)
			if err != nil {
				return err
			}
			return a.printHealth(found)
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printHealth(h upkeep.Health) error {
	if a.json {
		if err := a.writeJSON(h); err != nil {
			return err
		}
	} else {
		a.printHealthLines(h)
	}
	if !h.OK {
		return upkeep.Unsound(h)
	}
	return nil
}

func (a *app) printHealthLines(h upkeep.Health) {
	a.printf("%s, %s, %s\n", say.Count(h.Lots, "lot"), say.Count(h.Devices, "device"), say.Count(h.Events, "event"))
	for _, problem := range h.Problems {
		a.printf("  WRONG  %s\n", problem)
	}
	if h.OK {
		a.printf("The ledger is sound.\n")
	}
}

func (a *app) ledgerVacuumCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vacuum",
		Short: "Give unused space of the ledger back to the file system",
		Long: `Vacuum rewrites the ledger. It needs about as much free space as the ledger takes, and
running lots wait for it.`,
		Example: "  keymill ledger vacuum",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			known, err := a.openLedger(cmd)
			if err != nil {
				return err
			}
			defer known.Close()
			return known.Vacuum(cmd.Context())
		},
	}
	addSettings(cmd)
	return cmd
}
