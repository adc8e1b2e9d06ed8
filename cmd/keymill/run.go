package main

import (
	"slices"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) runCmd() *cobra.Command {
	var lot string
	var dry bool
	cmd := &cobra.Command{
		Use:   "run MANIFEST",
		Short: "Carry a lot from its manifest to released images; run again, it resumes",
		Long: `Run validates the whole manifest, plans the lot, and carries each device through key,
image and preauthorization. The same command again goes on where the lot stands and
tries failed devices again; conflicts wait for "keymill retry". Interrupt once to end
the steps under way and stop, twice to stop at once.

` + exitCodesHelp,
		Example: "  keymill run manifest.csv --golden golden.sdimg --server https://hosted.mender.io --token-file token\n" +
			"  keymill run manifest.xlsx --lot 2026-W47 --expect 5000 --format pack",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lot == "" {
				lot = files.LotName(args[0])
			}
			if dry {
				return a.plan(cmd, args[0], lot)
			}
			return a.run(cmd, args[0], lot)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be done and change nothing, as plan does")
	cmd.Flags().StringVar(&lot, "lot", "", "name of the lot (default: the manifest's base name)")
	cmd.Flags().StringVar(&a.verifyHow, "verify", station.VerifySample, "compare with the server at the end: all, sample (1 %, at least 50) or none")
	addSettings(cmd, append([]string{"expect", "sheet"}, lineSettings...)...)
	a.replaceAcceptedFlag(cmd)
	a.jsonFlag(cmd)
	return cmd
}

// run is the main job.
func (a *app) run(cmd *cobra.Command, manifest, lot string) error {
	if err := a.checkVerifyHow(); err != nil {
		return err
	}
	return a.tellOutcome(station.Run(cmd.Context(), a.options(cmd), manifest, lot))
}

// checkVerifyHow refuses an extent that is none.
func (a *app) checkVerifyHow() error {
	if !slices.Contains([]string{station.VerifyAll, station.VerifySample, station.VerifyNone}, a.verifyHow) {
		return fault.Usagef("--verify is %q; it can be all, sample or none", a.verifyHow)
	}
	return nil
}
