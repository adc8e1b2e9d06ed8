package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
)

// dryRun lists the lot's devices in these states.
func (a *app) dryRun(cmd *cobra.Command, lot string, states ...pipeline.State) error {
	list, err := station.ListDevices(cmd.Context(), a.layers(cmd), lot, states...)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(list)
	}
	for _, d := range list {
		a.printf("%-20s %-14s %s\n", d.Device, d.State, d.Reason)
	}
	a.printf("%d devices; nothing was changed\n", len(list))
	return nil
}
