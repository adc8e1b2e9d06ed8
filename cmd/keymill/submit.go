package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/queue"
	"keymill/cmd/keymill/internal/say"
)

func (a *app) submitCmd() *cobra.Command {
	var lot string
	cmd := &cobra.Command{
		Use:   "submit MANIFEST",
		Short: "Plan a lot and enqueue its devices for many stations",
		Long: `Submit validates the manifest and plans the lot, as run does, and enqueues its devices
in chunks. "keymill worker" on each station works them off. The ledger must be a
PostgreSQL database that the stations share. Submitting again enqueues what is
missing; "keymill status LOT" shows how far the stations are.

` + exitCodesHelp,
		Example: "  keymill submit manifest.csv --lot 2026-W47 --ledger postgres://keymill@db.example.com/keymill",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lot == "" {
				lot = files.LotName(args[0])
			}
			done, err := queue.SubmitLot(cmd.Context(), a.options(cmd), args[0], lot)
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(done)
			}
			a.printf("Lot %s: %s in %s enqueued, %s were before. Work them off with `keymill worker` on each station.\n",
				lot, say.Count(done.Devices, "device"), say.Count(done.Chunks, "chunk"), say.Count(done.Already, "chunk"))
			return nil
		},
	}
	cmd.Flags().StringVar(&lot, "lot", "", "name of the lot (default: the manifest's base name)")
	addSettings(cmd, append([]string{"expect", "sheet"}, lineSettings...)...)
	a.jsonFlag(cmd)
	return cmd
}
