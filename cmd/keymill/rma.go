package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/station"
)

func (a *app) rmaCmd() *cobra.Command {
	var r station.Return
	cmd := &cobra.Command{
		Use:   "rma LOT DEVICE --reason R",
		Short: "Give the device of a returned unit a new key",
		Long: `Rma is for a unit that came back. It scraps the unit, recording why, gives the device a
new key and image, and destroys the old ones here; the old key comes off the server
before the new one goes on it. What the returned medium holds no longer opens anything.
DEVICE is any identity value or the serial. The device keeps its identity: a board with
another one is refused, and belongs into a lot of its own. A unit that is being written
refuses. If it is interrupted, ` + "`keymill retry LOT`" + ` goes on.

` + exitCodesHelp,
		Example: "  keymill rma 2026-W47 SN0001 --reason 'RMA 4711: flash worn out'",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Device = args[1]
			return a.tellOutcome(station.RMA(cmd.Context(), a.options(cmd), args[0], r))
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why the unit came back; it is recorded")
	cmd.Flags().StringVar(&r.Board, "board", "", "first identity value of the board that the device is on now; another one than before is refused")
	addSettings(cmd, lineSettings...)
	a.replaceAcceptedFlag(cmd)
	a.jsonFlag(cmd)
	return cmd
}
