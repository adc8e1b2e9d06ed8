package main

import (
	"github.com/spf13/cobra"

	"keymill/pipeline"
)

func (a *app) retryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry LOT",
		Short: "Carry a lot's failed and conflicting devices again",
		Long: `Retry takes up the devices of a lot that failed or conflict. With --on-conflict fail
(the default) a device whose identity the server knows under another key stays a
conflict; with replace the other auth set is removed first, unless the device was
accepted with it.

` + exitCodesHelp,
		Example: "  keymill retry 2026-W47\n  keymill retry 2026-W47 --on-conflict replace",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.retry(cmd, args[0])
		},
	}
	addSettings(cmd, lineSettings...)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) retry(cmd *cobra.Command, name string) error {
	known, err := a.openLedger(cmd)
	if err != nil {
		return err
	}
	_, err = findLot(cmd, known, name)
	if closeErr := known.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	j, _, err := a.openJob(cmd, name)
	if err != nil {
		return err
	}
	defer j.Close()
	ctx := cmd.Context()
	if err := j.reopen(ctx, j.lot.ManifestPath, j.lot.ManifestSHA256); err != nil {
		return err
	}
	return j.carry(ctx, true, pipeline.Failed, pipeline.Conflicted)
}
