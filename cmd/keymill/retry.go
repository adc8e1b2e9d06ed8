package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/station"
)

func (a *app) retryCmd() *cobra.Command {
	var rekey []string
	var dry, inventory bool
	cmd := &cobra.Command{
		Use:   "retry LOT",
		Short: "Carry a lot's failed and conflicting devices again",
		Long: `Retry takes up the devices of a lot that failed or conflict. With --on-conflict fail
(the default) a device whose identity the server knows under another key stays a
conflict; with replace-pending the other auth set is removed first if it only waits
to be accepted, with replace unless the device was accepted with it
(--replace-accepted). --rekey gives devices whose image was lost a
new key: the old key comes off the server first. --inventory only goes on with what
server.device asks the server's inventory to say.

` + exitCodesHelp,
		Example: "  keymill retry 2026-W47 --dry-run\n  keymill retry 2026-W47 --on-conflict replace\n" +
			"  keymill retry 2026-W47 --rekey SN0001,SN0002",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.dryRun(cmd, args[0], station.Retryable()...)
			}
			if inventory {
				return a.retryInventory(cmd, args[0])
			}
			return a.tellOutcome(station.Retry(cmd.Context(), a.options(cmd), args[0], rekey))
		},
	}
	cmd.Flags().StringSliceVar(&rekey, "rekey", nil, "devices that get a new key, by identity value or serial")
	cmd.Flags().BoolVar(&inventory, "inventory", false, "only set names, groups and tags that the server's inventory lacks")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "list what would be carried again; change nothing")
	addSettings(cmd, lineSettings...)
	a.replaceAcceptedFlag(cmd)
	a.jsonFlag(cmd)
	return cmd
}

// retryInventory goes on with the inventory alone.
func (a *app) retryInventory(cmd *cobra.Command, lot string) error {
	done, err := station.RetryInventory(cmd.Context(), a.options(cmd), lot)
	if text := done.String(); text != "" && !a.json {
		a.printf("Inventory: %s\n", text)
	}
	if a.json && done.Asked {
		return cmp.Or(a.writeJSON(map[string]int{"done": done.Done, "inventory_pending": done.Pending, "inventory_failed": done.Failed}), err)
	}
	return err
}
