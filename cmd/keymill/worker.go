package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/queue"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) workerCmd() *cobra.Command {
	o := queue.ServeOptions{Times: queue.DefaultTimes()}
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Work off the chunks of submitted lots at this station",
		Long: `Worker takes chunks of the lots that were submitted to the shared ledger and carries
their devices as run does. Each station needs a name of its own (audit.station), a
folder of its own (out; products lie in OUT/LOT) and what the lots were planned with:
the same golden image, injected files, format and source of keys. Lots that it can't
work on are left to others, and it says what differs.

A station that dies is replaced: once its lease ran out (a minute), others take its
planned devices. Devices that it had staged wait for it, as their keys lie in its
pack; "keymill worker retire" gives these new keys.

` + exitCodesHelp,
		Example: "  keymill worker --until-done\n  keymill worker --lot 2026-W47",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Station = a.options(cmd)
			o.Station.Hooks.Progress = nil // lots come and go; the log says how they stand
			o.Settled = func(out station.Outcome) { _ = a.tellOutcome(out, nil) }
			return queue.Serve(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Lot, "lot", "", "work on this lot alone")
	cmd.Flags().BoolVar(&o.UntilDone, "until-done", false, "end when nothing is left that this station could do")
	cmd.Flags().StringVar(&a.verifyHow, "verify", station.VerifySample, "compare with the server before a lot is closed: all, sample or none")
	addSettings(cmd, lineSettings...)
	a.jsonFlag(cmd)
	return cmd
}
