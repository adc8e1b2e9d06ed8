package evidence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/reports"
)

// ExportOptions say what a bundle is made of.
type ExportOptions struct {
	Dir        string   // of the bundle; it must not exist yet
	Formats    []string // all if empty
	Recipients []string // age recipients of an encrypted bundle, which alone is kept then
}

// check refuses what cannot be exported before anything is read.
func (f ExportOptions) check() error {
	if slices.Contains(f.Formats, reports.FormatEPCIS) && (len(f.Formats) > 1 || len(f.Recipients) > 0) {
		return fault.Usagef("--format epcis stands alone: it makes no bundle, and is not encrypted")
	}
	for _, format := range f.Formats {
		if known := append(reports.FormatNames(), reports.FormatEPCIS); !slices.Contains(known, format) {
			return fault.Usagef("--format has %q; it can have %s%s", format, strings.Join(known, ", "), say.DidYouMean(say.Nearest(format, known)))
		}
	}
	for _, path := range []string{f.Dir, f.Dir + ".tar.age"} {
		if (path == f.Dir || len(f.Recipients) > 0) && files.Exists(path) {
			return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s exists already; nothing was exported", path), "Name another folder with -o."))
		}
	}
	return nil
}

// Export writes the audit bundle of a lot.
func Export(ctx context.Context, o station.Options, name string, flags ExportOptions) (result reports.Result, err error) {
	if err := flags.check(); err != nil {
		return result, err
	}
	known, err := station.OpenView(ctx, o.Settings, name)
	if err != nil {
		return result, err
	}
	defer known.Close()
	key, err := o.Signer(ctx, known.Config, logs.New(known.Config.Log, o.Hooks.LogTo))
	if err != nil {
		return result, err
	}
	defer key.Close()
	if slices.Contains(flags.Formats, reports.FormatEPCIS) {
		return exportEPCIS(ctx, known, key, flags.Dir)
	}
	opt, err := key.Exporting(known.Config, known.Ledger, flags.Formats)
	if err != nil {
		return result, err
	}
	opt.Timestamp = timestamp(known.Config.Audit)
	result, err = reports.Export(ctx, known, name, flags.Dir, opt)
	if err != nil {
		return result, exportFault(err)
	}
	if len(flags.Recipients) > 0 {
		// Only the encrypted bundle was asked for.
		err := reports.Encrypt(ctx, result.Dir, result.Dir+".tar.age", flags.Recipients)
		if err := errors.Join(err, os.RemoveAll(result.Dir)); err != nil {
			return result, exportFault(err)
		}
		result.Dir += ".tar.age"
	}
	return result, nil
}

// exportEPCIS writes the lot's EPCIS events, signed, instead of a bundle.
func exportEPCIS(ctx context.Context, known *station.View, key station.Signer, dir string) (reports.Result, error) {
	cfg := known.Config
	n, err := reports.WriteEPCIS(ctx, known, known.Planned.Name, dir, reports.LabelOptions{GTIN: cfg.Label.GTIN, Serial: cfg.Label.Serial},
		reports.ListSigning{Station: cfg.Audit.Station, Signer: key.Signer, Time: time.Now().UTC().Format(time.RFC3339), MadeBy: "keymill " + build.Version()})
	if _, ok := errors.AsType[*reports.LabelError](err); ok {
		return reports.Result{}, fault.As(fault.Usage, err)
	}
	if err != nil {
		return reports.Result{}, exportFault(err)
	}
	return reports.Result{Dir: dir, Devices: known.Planned.Devices, Events: n}, nil
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
