package main

import (
	"errors"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/upkeep"
	"keymill/pipeline"
)

func (a *app) ledgerPruneCmd() *cobra.Command {
	var accepted, yes, dry, trust bool
	cmd := &cobra.Command{
		Use:   "prune --older-than 90d",
		Short: "Destroy images and packs of lots that are done with; records are kept",
		Long: `Prune lists the closed lots that closed longer ago than --older-than, or (--accepted)
of which the server has accepted every device, and whose images or pack still lie
here. With --yes it destroys these: packs are overwritten and removed, images removed.
Records, events and reports are kept, and each lot gets an event that says so. A
killed prune is finished by the next one.

Of a time in which the ledger saw nothing, a week counts for a lot's age: so a clock that
was wrong for a while destroys nothing. --trust-clock counts all of it.

` + exitCodesHelp,
		Example: "  keymill ledger prune --older-than 90d\n  keymill ledger prune --older-than 90d --accepted --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.prune(cmd, accepted, trust, yes && !dry)
		},
	}
	cmd.Flags().BoolVar(&accepted, "accepted", false, "also lots of which the server has accepted every device")
	cmd.Flags().BoolVar(&yes, "yes", false, "destroy; without it nothing is changed")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "list only, as without --yes")
	cmd.Flags().BoolVar(&trust, "trust-clock", false, "count a lot's age by the clock alone, also over weeks in which this ledger saw nothing")
	addSettings(cmd, "older-than", "server", "token-file", "ca-file", "in-flight")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) prune(cmd *cobra.Command, accepted, trust, yes bool) error {
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	rule, err := upkeep.Retention(cfg, accepted || cfg.Retention.Accepted)
	if err != nil {
		return err
	}
	if rule == (upkeep.Rule{}) {
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("nothing says which lots are done with"),
			"Give --older-than 90d, --accepted, or both; or set them under retention in %s.", config.File))
	}
	rule.TrustClock = trust
	known, err := a.openLedger(cmd)
	if err != nil {
		return err
	}
	defer known.Close()
	all, err := upkeep.Prune(cmd.Context(), a.options(cmd), cfg, known, rule, yes)
	if err != nil {
		return err
	}
	return a.printPruned(all, yes)
}

func (a *app) printPruned(all []upkeep.Remains, yes bool) error {
	if a.json {
		return a.writeJSON(all)
	}
	if len(all) == 0 {
		a.printf("Nothing to destroy.\n")
		return nil
	}
	for _, r := range all {
		what := "would be destroyed"
		if r.Destroyed {
			what = "destroyed"
		}
		a.printf("%-24s %s, %s %s: %s\n", r.Lot, say.Count(r.Files, "file"), say.Bytes(r.Bytes), what, r.Reason)
	}
	if !yes {
		a.printf("Nothing was changed; --yes destroys them. Records are kept.\n")
	}
	return nil
}
