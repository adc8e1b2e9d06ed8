package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/operator"
)

func (a *app) stationCmd() *cobra.Command {
	var s operator.Settings
	cmd := &cobra.Command{
		Use:   "station LOT",
		Short: "The operator's page: scan a unit, write its medium, print its label, confirm it",
		Long: `Station serves the page of the person who stands at a bench with a scanner, slots for
media and a label printer. It prints the page's base URL on standard output when it is
ready, and nothing else; SIGTERM ends it. Settings station and label say what the bench
has. The units come from a lot in format pack whose devices are released; server and HSM
token may be down. With --make keys are made and preauthorized at the scan; a unit's
label waits until the server has confirmed its device.

Station, night batch and other verbs may share ledger and lot. One station process works
on a lot at a time (out/LOT/station.lock). A medium is locked while it is written. The
lot's pack is locked for a moment before each key leaves, and for 20 s after: a run of
the same lot that begins meanwhile ends with a message, and a station whose lot is being
run waits 10 s, then fails the unit. With --make the pack is locked all the time. A unit
that an interruption left is taken up by the next start.

` + exitCodesHelp,
		Example: "  keymill station 2026-W47\n  keymill station 2026-W47 --make --listen 127.0.0.1:8090",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Lot = args[0]
			options := a.options(cmd)
			options.Drain = nil // an interrupt ends the page at once; units are resumable
			bench, err := operator.Open(cmd.Context(), options, s)
			if err != nil {
				return err
			}
			defer bench.Close()
			a.printf("%s\n", bench.Page.URL())
			return bench.Run()
		},
	}
	cmd.Flags().BoolVar(&s.Make, "make", false, "make and preauthorize keys at the scan")
	addSettings(cmd, append([]string{"listen"}, lineSettings...)...)
	return cmd
}
