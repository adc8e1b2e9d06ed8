package main

import (
	"errors"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/queue"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
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
	cmd.AddCommand(a.workerRetireCmd())
	return cmd
}

func (a *app) workerRetireCmd() *cobra.Command {
	var reason, released string
	var yes bool
	cmd := &cobra.Command{
		Use:   "retire STATION --reason R",
		Short: "Give up a station that is gone: its devices get new keys elsewhere",
		Long: `Retire ends a station for good, even if it gave a sign of life a second ago. Its
leases are revoked and its log takes no more events. Devices that it had staged or
preauthorized get new keys at other stations: the old auth sets come off the server
before. Devices that it released and whose image went to no unit are listed, as
their images lie there alone; --released rekey gives these new keys, too. Should the
station come back, it finds itself retired and destroys the keys that it still has.

` + exitCodesHelp,
		Example: "  keymill worker retire line-3 --reason \"its disk failed\"\n  keymill worker retire line-3 --reason stolen --released rekey --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case reason == "":
				return fault.Usagef("--reason is missing: say why station %s is given up; it goes into the evidence", args[0])
			case released != "list" && released != "rekey":
				return fault.Usagef("--released is %q; it can be list or rekey", released)
			case !yes && !a.confirmed(args[0], "This gives station "+args[0]+" up for good. Type its name to go on: "):
				return fault.As(fault.Usage, pipeline.WithHint(errors.New("not confirmed; nothing was changed"),
					"Type the station's name when asked, or give --yes."))
			}
			return a.tellRetired(queue.Retire(cmd.Context(), a.options(cmd), args[0], reason, released == "rekey"))
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why the station is given up; it goes into the evidence")
	cmd.Flags().StringVar(&released, "released", "list", "released devices without a unit: list them, or rekey them")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for the station's name")
	addSettings(cmd, "server", "token-file", "ca-file")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) tellRetired(done queue.Retired, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(done)
	}
	a.printf("Station %s is retired. It held leases on %s; %s it had a key for get new keys at other stations.\n",
		done.Station, say.Count(done.Revoked, "device"), say.Count(done.Rekeyed, "device"))
	a.listDevices("Their units are being written: scrap these with `keymill unit scrap`, then retire the station again", done.Busy)
	a.listDevices("Released there, without a unit, and so lost unless its disk can be read (--released rekey gives them new keys)", done.Released)
	return nil
}

// listDevices prints the first devices of a list under a heading.
func (a *app) listDevices(heading string, list []queue.Device) {
	if len(list) == 0 {
		return
	}
	a.printf("%s: %d\n", heading, len(list))
	for i, d := range list {
		if i == 20 {
			a.printf("  .. and %d more; --json lists all\n", len(list)-i)
			return
		}
		a.printf("  lot %s, row %d, %s\n", d.Lot, d.Row, d.Device)
	}
}
