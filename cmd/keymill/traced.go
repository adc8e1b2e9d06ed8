package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/telemetry"
)

// traced makes a verb one that telemetry follows.
func (a *app) traced(cmd *cobra.Command) *cobra.Command {
	do := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dry := cmd.Flags().Lookup("dry-run"); dry != nil && dry.Changed {
			return do(cmd, args)
		}
		cfg, err := a.config(cmd, nil)
		if err != nil {
			return err
		}
		if a.telemetry, err = telemetry.Open(cmd.Context(), cfg, a.env, logs.New(cfg.Log, a.err), nil); err != nil {
			return err
		}
		a.begun = a.telemetry.Begun(a.begun)
		before := cmd.Context()
		ctx, ended := a.telemetry.Begin(before, cmd.CommandPath(), lotAsked(cmd, args))
		cmd.SetContext(ctx)
		err = do(cmd, args)
		ended(err)
		cmd.SetContext(before)
		a.telemetry.Close(cmd.Context())
		return err
	}
	return cmd
}

// lotAsked is the lot that a command line is about.
func lotAsked(cmd *cobra.Command, args []string) string {
	if cmd.Name() != "run" {
		return args[0]
	}
	return cmp.Or(cmd.Flag("lot").Value.String(), files.LotName(args[0]))
}
