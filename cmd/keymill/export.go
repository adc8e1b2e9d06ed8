package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/fault"
	"keymill/reports"
)

func (a *app) exportCmd() *cobra.Command {
	var flags evidence.ExportOptions
	cmd := &cobra.Command{
		Use:   "export LOT -o DIR",
		Short: "Write the audit bundle of a lot",
		Long: `Export writes what the ledger knows of a lot into a folder, bound together by hashes
and signed by the station. It holds no private key. "keymill audit verify" checks it
anywhere, offline. With --encrypt the folder becomes DIR.tar.age, which only the
recipients can read.

--format epcis makes no bundle but epcis.jsonld, with a signed statement beside it:
EPCIS 2.0 events of the serial numbers that were commissioned and decommissioned.
It needs label.gtin; "keymill affected --check" verifies it.

` + exitCodesHelp,
		Example: "  keymill export 2026-W47 -o audit\n  keymill export 2026-W47 -o audit --format csv,jsonl\n" +
			"  keymill export 2026-W47 -o audit --encrypt age1...\n" +
			"  keymill export 2026-W47 -o epcis --format epcis",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.Dir == "" {
				return fault.Usagef("export needs -o DIR, a folder that does not exist yet")
			}
			return a.export(cmd, args[0], flags)
		},
	}
	cmd.Flags().StringVarP(&flags.Dir, "output", "o", "", "folder of the bundle; it must not exist yet")
	cmd.Flags().StringSliceVar(&flags.Formats, "format", nil, strings.Join(reports.FormatNames(), ", ")+" (default all); or epcis")
	cmd.Flags().StringSliceVar(&flags.Recipients, "encrypt", nil, "age recipients (age1..) of an encrypted bundle, DIR.tar.age")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) export(cmd *cobra.Command, name string, flags evidence.ExportOptions) error {
	result, err := evidence.Export(cmd.Context(), a.options(cmd), name, flags)
	if err != nil {
		return err
	}
	return a.printExport(result)
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
