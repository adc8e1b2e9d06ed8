package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/demo"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) demoCmd() *cobra.Command {
	var dir string
	var devices int
	var bench bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Do the whole job on this machine: trial server, invented manifest, generated golden image",
		Long: `Demo needs nothing but this program and Debian's e2fsprogs. It starts a trial server,
invents a manifest, generates a golden image, and runs the lot. Run again, it resumes.
With --station the lot is then handed out at the operator's page, with files as media and
a printer that is played; it needs a folder of its own.`,
		Example: "  keymill demo\n  keymill demo --dir trial --devices 500\n  keymill demo --station",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if devices < 1 {
				return fault.Usagef("--devices is %d; it is a number of devices", devices)
			}
			if bench && !cmd.Flags().Changed("dir") {
				dir += "-station"
			}
			return a.demo(cmd, dir, devices, bench)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "keymill-demo", "folder for everything that the demo makes")
	cmd.Flags().BoolVar(&bench, "station", false, "then serve the operator's page")
	cmd.Flags().IntVar(&devices, "devices", 20, "devices in the invented manifest")
	return cmd
}

func (a *app) demo(cmd *cobra.Command, dir string, devices int, bench bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := files.MakeDirs(dir); err != nil {
		return err
	}
	ctx := cmd.Context()
	if err := demo.Inputs(ctx, dir, devices); err != nil {
		return fault.StorageOutage(err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	server, stopped, err := demo.Start(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.err, "Trial server at %s\n", server)
	o := a.options(cmd)
	o.Settings = config.Layers{File: filepath.Join(dir, config.File), Env: a.env, Flags: map[string]any{
		"image.golden": filepath.Join(dir, "golden.sdimg"), "ledger": filepath.Join(dir, "keymill.db"),
		"out": filepath.Join(dir, "out", "demo"), "server.url": server,
		"server.token_file": filepath.Join(dir, "sandbox", "token"), "server.ca_file": filepath.Join(dir, "sandbox", "ca.crt"),
	}}
	if bench {
		o.Settings.Flags["image.format"] = config.FormatPack
	}
	runErr := a.tellOutcome(station.Run(ctx, o, filepath.Join(dir, "manifest.csv"), "demo"))
	stop()
	if err := <-stopped; err != nil && runErr == nil {
		runErr = err
	}
	switch {
	case runErr != nil:
		return runErr
	case bench:
		return a.demoBench(cmd, o, dir)
	}
	a.demoEpilogue(dir)
	return nil
}

func (a *app) demoEpilogue(dir string) {
	a.printf(`
Everything lies in %[1]s:
  manifest.csv       the invented manifest
  golden.sdimg       the generated golden image
  out/demo/images    an image a device
  out/demo/report    the audit export
  keymill.db         the ledger
  sandbox            the trial server's CA, token and devices
Look further:
  keymill status demo --ledger %[1]s/keymill.db
  keymill image inspect %[1]s/golden.sdimg
`, dir)
}
