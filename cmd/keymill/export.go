package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/reports"
)

// exportFlags say what a bundle is made of.
type exportFlags struct {
	dir        string
	formats    []string
	recipients []string
}

func (a *app) exportCmd() *cobra.Command {
	var flags exportFlags
	cmd := &cobra.Command{
		Use:   "export LOT -o DIR",
		Short: "Write the audit bundle of a lot",
		Long: `Export writes what the ledger knows of a lot into a folder, bound together by hashes
and signed by the station. It holds no private key. "keymill audit verify" checks it
anywhere, offline. With --encrypt the folder becomes DIR.tar.age, which only the
recipients can read.

` + exitCodesHelp,
		Example: "  keymill export 2026-W47 -o audit\n  keymill export 2026-W47 -o audit --format csv,jsonl\n" +
			"  keymill export 2026-W47 -o audit --encrypt age1...",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.dir == "" {
				return fault.Usagef("export needs -o DIR, a folder that does not exist yet")
			}
			return a.export(cmd, args[0], flags)
		},
	}
	cmd.Flags().StringVarP(&flags.dir, "output", "o", "", "folder of the bundle; it must not exist yet")
	cmd.Flags().StringSliceVar(&flags.formats, "format", nil, strings.Join(reports.FormatNames(), ", ")+" (default all)")
	cmd.Flags().StringSliceVar(&flags.recipients, "encrypt", nil, "age recipients (age1..) of an encrypted bundle, DIR.tar.age")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

// check refuses what cannot be exported before anything is read.
func (f exportFlags) check() error {
	for _, format := range f.formats {
		if known := reports.FormatNames(); !slices.Contains(known, format) {
			return fault.Usagef("--format has %q; it can have %s%s", format, strings.Join(known, ", "), say.DidYouMean(say.Nearest(format, known)))
		}
	}
	for _, path := range []string{f.dir, f.dir + ".tar.age"} {
		if (path == f.dir || len(f.recipients) > 0) && files.Exists(path) {
			return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s exists already; nothing was exported", path), "Name another folder with -o."))
		}
	}
	return nil
}

func (a *app) export(cmd *cobra.Command, name string, flags exportFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	ctx := cmd.Context()
	known, err := a.openLot(cmd, name)
	if err != nil {
		return err
	}
	defer known.Close()
	key, err := a.signer(cmd, known.Config)
	if err != nil {
		return err
	}
	defer key.Close()
	result, err := reports.Export(ctx, known, name, flags.dir, reports.Options{
		Formats: flags.formats, Station: known.Config.Audit.Station, Signer: key, Timestamp: timestamp(known.Config.Audit),
	})
	if err != nil {
		return exportFault(err)
	}
	if len(flags.recipients) > 0 {
		// Only the encrypted bundle was asked for.
		err := reports.Encrypt(ctx, result.Dir, result.Dir+".tar.age", flags.recipients)
		if err := errors.Join(err, os.RemoveAll(result.Dir)); err != nil {
			return exportFault(err)
		}
		result.Dir += ".tar.age"
	}
	return a.printExport(result)
}

// timestamp returns how checkpoints are stamped, nil where they are not.
func timestamp(c config.AuditConfig) func(context.Context, []byte) ([]byte, error) {
	if c.TimestampURL == "" {
		return nil
	}
	return reports.TimestampAuthority(&http.Client{Timeout: time.Minute}, c.TimestampURL)
}

func exportFault(err error) error {
	if fault.KindOf(err) == fault.Internal {
		return fault.As(fault.Storage, err)
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
