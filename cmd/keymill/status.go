package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// openLedger opens the ledger of a verb that needs one to be there.
func (a *app) openLedger(cmd *cobra.Command) (*ledger.Ledger, error) {
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return nil, err
	}
	known, err := openKnown(cmd.Context(), cfg.Ledger)
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("there is no ledger %s", cfg.Ledger),
			"Name it with --ledger, or change to the folder that it lies in; `keymill run` makes it."))
	}
	return known, nil
}

// findLot returns a lot, or an error that names those that exist.
func findLot(cmd *cobra.Command, known *ledger.Ledger, name string) (pipeline.Lot, error) {
	lot, err := known.Lot(cmd.Context(), name)
	if !errors.Is(err, ledger.ErrNoLot) {
		return lot, err
	}
	lots, err := known.Lots(cmd.Context())
	if err != nil {
		return lot, err
	}
	names := make([]string, len(lots))
	for i := range lots {
		names[i] = lots[i].Name
	}
	return lot, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("the ledger has no lot %q%s", name, say.DidYouMean(say.Nearest(name, names))),
		"`keymill status` lists the lots."))
}

// lotView is a planned lot that a verb looks at. Close closes its ledger.
type lotView struct {
	*ledger.Ledger
	lot pipeline.Lot
	cfg *config.Config
}

// openLot opens the ledger and finds the lot, with its settings as defaults.
func (a *app) openLot(cmd *cobra.Command, name string) (*lotView, error) {
	known, err := a.openLedger(cmd)
	if err != nil {
		return nil, err
	}
	lot, err := findLot(cmd, known, name)
	if err != nil {
		return nil, errors.Join(err, known.Close())
	}
	cfg, err := a.config(cmd, &lot)
	if err != nil {
		return nil, errors.Join(err, known.Close())
	}
	return &lotView{known, lot, cfg}, nil
}

// device finds the one device that value names, and that has a key.
func (v *lotView) device(ctx context.Context, value string) (*pipeline.Record, error) {
	found, err := v.Find(ctx, v.lot.Name, value)
	if err != nil {
		return nil, err
	}
	return theDevice(v.lot, value, found)
}

func (a *app) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status [LOT]",
		Short:   "Show where a lot stands, or list all lots",
		Example: "  keymill status\n  keymill status 2026-W47 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.openLedger(cmd)
			if err != nil {
				return err
			}
			defer known.Close()
			if len(args) == 0 {
				return a.statusAll(cmd, known)
			}
			return a.statusOf(cmd, known, args[0])
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) statusAll(cmd *cobra.Command, known *ledger.Ledger) error {
	lots, err := known.Lots(cmd.Context())
	if err != nil {
		return err
	}
	all := []pipeline.Totals{}
	for _, lot := range lots {
		totals, err := known.Totals(cmd.Context(), lot.Name)
		if err != nil {
			return err
		}
		all = append(all, totals)
	}
	if a.json {
		return a.writeJSON(all)
	}
	if len(all) == 0 {
		a.printf("The ledger has no lots yet.\n")
		return nil
	}
	a.printf("%-24s %9s %9s %9s %9s %9s\n", "LOT", "DEVICES", "RELEASED", "FAILED", "CONFLICT", "OPEN")
	for _, t := range all {
		a.printf("%-24s %9d %9d %9d %9d %9d\n", t.Lot, t.Devices, t.Released, t.Failed, t.Conflict, t.Planned+t.Staged+t.Preauthorized)
	}
	return nil
}

func (a *app) statusOf(cmd *cobra.Command, known *ledger.Ledger, name string) error {
	lot, err := findLot(cmd, known, name)
	if err != nil {
		return err
	}
	totals, err := known.Totals(cmd.Context(), name)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(totals)
	}
	a.printTotals(totals)
	a.printf("Manifest: %s\nGolden:   %s\nServer:   %s\nFolder:   %s\n", lot.ManifestPath, lot.GoldenPath, lot.Server, lot.Out)
	shown := 0
	for rec, err := range known.Records(cmd.Context(), name, pipeline.Failed, pipeline.Conflicted) {
		if err != nil {
			return err
		}
		if shown++; shown > 10 {
			a.printf("  .. more in %s/failures.csv\n", lot.Out)
			break
		}
		a.printf("  row %d %s: %s: %s\n", rec.Row, rec.Identity.Name(), rec.State, rec.Reason)
	}
	return nil
}
