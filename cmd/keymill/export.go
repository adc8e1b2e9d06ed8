package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keymill/reports"
)

func (a *app) exportCmd() *cobra.Command {
	var dir string
	var formats []string
	cmd := &cobra.Command{
		Use:     "export LOT -o DIR",
		Short:   "Write the audit bundle of a lot",
		Long:    "Export writes what the ledger knows of a lot into a folder. It holds no private key.\n\n" + exitCodesHelp,
		Example: "  keymill export 2026-W47 -o audit\n  keymill export 2026-W47 -o audit --format csv,jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" {
				return usagef("export needs -o DIR, a folder that does not exist yet")
			}
			known, err := a.openLedger(cmd)
			if err != nil {
				return err
			}
			defer known.Close()
			if _, err := findLot(cmd, known, args[0]); err != nil {
				return err
			}
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			key, err := a.signer(cmd.Context(), cfg, cfg.Log.logger(a.err))
			if err != nil {
				return err
			}
			defer key.Close()
			result, err := reports.Export(cmd.Context(), known, args[0], dir, reports.Options{
				Formats: formats, Station: cfg.Audit.Station, Signer: key,
			})
			if err != nil {
				return exportFault(err)
			}
			return a.printExport(result)
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "", "folder of the bundle; it must not exist yet")
	cmd.Flags().StringSliceVar(&formats, "format", nil, strings.Join(reports.FormatNames(), ", ")+" (default all)")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func exportFault(err error) error {
	if exitCode(err) == exitInternal {
		return withCode(exitStorage, err)
	}
	return err
}

func (a *app) printExport(result reports.Result) error {
	if a.json {
		files := make([]map[string]any, 0, len(result.Files))
		for _, f := range result.Files {
			files = append(files, map[string]any{"name": f.Name, "bytes": f.Bytes, "sha256": f.SHA256})
		}
		return a.writeJSON(map[string]any{"dir": result.Dir, "devices": result.Devices, "events": result.Events, "files": files})
	}
	a.printf("%s: %d devices, %d events\n", result.Dir, result.Devices, result.Events)
	for _, f := range result.Files {
		a.printf("  %-20s %10d bytes  sha256 %s\n", f.Name, f.Bytes, f.SHA256)
	}
	return nil
}
