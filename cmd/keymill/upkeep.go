package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/upkeep"
	"keymill/pipeline"
)

func (a *app) ledgerUpkeepCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "upkeep",
		Short: "Check, back up and prune as the settings say; for a timer",
		Long: `Upkeep does each day what a ledger needs, in this order: it checks the ledger as
"keymill ledger check" does; copies it into backup.folder, checks the copy, and removes
all but the newest backup.keep; destroys images and packs as "keymill ledger prune --yes"
does. What is not configured is left out: without backup.folder no copy is made, and
without retention nothing is destroyed. A ledger that is not sound ends it with 7,
before a good copy makes room for a bad one. Lots go on meanwhile.

With metrics.textfile set to keymill.prom, keymill-upkeep.prom beside it says how it went.

` + exitCodesHelp,
		Example: "  keymill ledger upkeep\n  keymill ledger upkeep --dry-run --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.upkeep(cmd, dry) },
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check, and say what would be copied, removed and destroyed")
	addSettings(cmd, "older-than", "server", "token-file", "ca-file", "in-flight")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) upkeep(cmd *cobra.Command, dry bool) error {
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	if cfg.Backup.Folder != "" && config.IsDatabaseURL(cfg.Ledger) {
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("backup.folder is set, but a ledger in PostgreSQL is not copied by keymill"),
			"Take backup.folder out, and see to pg_dump or pg_basebackup with archived WAL."))
	}
	known, err := station.OpenKnown(ctx, cfg.Ledger)
	if err != nil {
		return err
	}
	if known == nil {
		a.printf("There is no ledger %s yet, and nothing to keep.\n", cfg.Ledger)
		return nil
	}
	defer known.Close()
	began := time.Now()
	done, err := upkeep.Run(ctx, a.options(cmd), cfg, known, dry)
	if dry {
		return errors.Join(err, a.printUpkept(done, dry))
	}
	// How it went is shown also where it went wrong, or was interrupted.
	gauges := upkeep.Metrics(cfg, done, began, err)
	if meterErr := gauges.Put(context.WithoutCancel(ctx)); meterErr != nil {
		logs.New(cfg.Log, a.err).Warn("metrics", "error", meterErr)
	}
	return errors.Join(err, a.printUpkept(done, dry))
}

func (a *app) printUpkept(done upkeep.Done, dry bool) error {
	if a.json {
		return a.writeJSON(done)
	}
	a.printHealthLines(done.Health)
	if b := done.Backup; b != nil {
		removed := "removed"
		if dry {
			a.printf("Would write %s; kept would be %d.\n", b.File, b.Kept)
			removed = "would remove"
		} else {
			a.printf("Wrote %s (%s) and checked it; kept: %d.\n", b.File, say.Bytes(b.Bytes), b.Kept)
		}
		for _, name := range b.Removed {
			a.printf("  %s %s\n", removed, name)
		}
	}
	if len(done.Pruned) > 0 {
		return a.printPruned(done.Pruned, !dry)
	}
	return nil
}
