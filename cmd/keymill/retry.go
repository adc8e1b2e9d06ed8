package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/station"
)

func (a *app) retryCmd() *cobra.Command {
	var rekey []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "retry LOT",
		Short: "Carry a lot's failed and conflicting devices again",
		Long: `Retry takes up the devices of a lot that failed or conflict. With --on-conflict fail
(the default) a device whose identity the server knows under another key stays a
conflict; with replace-pending the other auth set is removed first if it only waits
to be accepted, with replace unless the device was accepted with it
(--replace-accepted). --rekey gives devices whose image was lost a
new key: the old key comes off the server first.

` + exitCodesHelp,
		Example: "  keymill retry 2026-W47 --dry-run\n  keymill retry 2026-W47 --on-conflict replace\n" +
			"  keymill retry 2026-W47 --rekey SN0001,SN0002",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.dryRun(cmd, args[0], station.Retryable()...)
			}
			return a.tellOutcome(station.Retry(cmd.Context(), a.options(cmd), args[0], rekey))
		},
	}
	cmd.Flags().StringSliceVar(&rekey, "rekey", nil, "devices that get a new key, by identity value or serial")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "list what would be carried again; change nothing")
	addSettings(cmd, lineSettings...)
	a.replaceAcceptedFlag(cmd)
	a.jsonFlag(cmd)
	return cmd
}
