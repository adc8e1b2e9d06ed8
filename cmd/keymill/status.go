package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

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
		all = append(all, station.Shown(lot, totals))
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
	lot, err := station.FindLot(cmd.Context(), known, name)
	if err != nil {
		return err
	}
	totals, err := known.Totals(cmd.Context(), name)
	if err != nil {
		return err
	}
	totals = station.Shown(lot, totals)
	if a.json {
		return a.writeJSON(totals)
	}
	a.printTotals(totals)
	a.printf("Manifest: %s\nGolden:   %s\nServer:   %s\nFolder:   %s\n", lot.ManifestPath, lot.GoldenPath, lot.Server, lot.Out)
	if totals.InventoryPending+totals.InventoryFailed > 0 {
		a.printf("Inventory: %d pending, %d refused; `keymill retry %s --inventory` goes on\n", totals.InventoryPending, totals.InventoryFailed, name)
	}
	if err := a.printStations(cmd.Context(), known, name); err != nil {
		return err
	}
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

// printStations says which stations work on a lot, and who is silent. Of a lot
// that one station has to itself it says nothing.
func (a *app) printStations(ctx context.Context, known *ledger.Ledger, lot string) error {
	parts, err := known.LotStations(ctx, lot)
	if err != nil || len(parts) < 2 {
		return err
	}
	all, err := known.Stations(ctx)
	if err != nil {
		return err
	}
	now, err := known.Now(ctx)
	if err != nil {
		return err
	}
	a.printf("Stations:\n")
	for _, part := range parts {
		for _, s := range all {
			if s.Name == part.Station {
				a.printf("  %-20s %s, %s\n", s.Name, stationState(s, now), part.Out)
			}
		}
	}
	return nil
}

// stationState says whether a station is at work.
func stationState(s ledger.Station, now time.Time) string {
	switch silent := now.Sub(s.Beat); {
	case !s.Retired.IsZero():
		return "retired: " + s.RetiredReason
	case s.Beat.IsZero() || s.PID == 0:
		return "not at work"
	case silent > ledger.Silence:
		return "silent for " + silent.Round(time.Second).String()
	default:
		return "at work"
	}
}
