package station

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/reports"
	"keymill/sources"
)

// Outcome is how a lot stands after it was worked on.
type Outcome struct {
	Lot      pipeline.Lot
	Settled  bool // the lot's files are up to date; the members below are set
	Totals   pipeline.Totals
	Products string        // where the images lie; empty while none is out
	Report   string        // folder of the report; empty if none is configured
	Failures string        // path of failures.csv; empty if nothing failed
	Took     time.Duration // since the lot was opened, preparation included
	// Verified is what the server was found to hold when the lot was to be
	// closed, nil if nothing was compared. It is set also where that is not what
	// it should hold, and the lot stays open.
	Verified *Verified
	// KeyFiles is what became of the files that the keys came from.
	KeyFiles KeyFiles
	// Described is how far the server's inventory describes the lot's devices.
	Described Described
}

// totalFacts puts a lot's balance into an event.
func totalFacts(t pipeline.Totals) []pipeline.Attr {
	values := map[string]string{
		"devices": strconv.Itoa(t.Devices), "keys_generated": strconv.Itoa(t.Keys.Generated),
		"keys_released": strconv.Itoa(t.Keys.Released), "keys_destroyed": strconv.Itoa(t.Keys.Destroyed),
	}
	for _, state := range pipeline.States {
		values[string(state)] = strconv.Itoa(*t.Count(state))
	}
	return Facts(values)
}

// Settle brings the lot's files up to date with the ledger and closes a lot that
// is complete. Its error is fault.Told where the outcome says it all.
func (l *Lot) Settle(ctx context.Context) (Outcome, error) {
	totals, err := l.Ledger.Totals(ctx, l.Name)
	if err != nil {
		return Outcome{}, err
	}
	return l.settle(ctx, totals)
}

func (l *Lot) settle(ctx context.Context, totals pipeline.Totals) (Outcome, error) {
	out := Outcome{Lot: l.Lot, Totals: totals}
	if err := totals.Check(); err != nil {
		return out, l.investigate(err)
	}
	failures, failed, err := l.writeFailures(ctx, totals)
	if err != nil {
		return out, fault.StorageOutage(err)
	}
	out.Failures = failures
	open := totals.Planned + totals.Staged + totals.Preauthorized
	closing := open+failed == 0 && l.Closed.IsZero()
	if l.opts.Shared && l.Closed.IsZero() {
		missing, err := l.signPart(ctx)
		if err != nil {
			return out, err
		}
		if closing && missing != "" {
			l.Log.Warn("the lot stays open until a station has signed its part of the log; where it is gone, `keymill worker retire` signs for it",
				"lot", l.Name, "station", missing)
			closing = false
		}
	}
	if closing {
		if err := l.closeLot(ctx, &out); err != nil {
			return out, err
		}
	}
	interrupted := l.draining() && open > 0
	if !interrupted {
		if err := l.writeReport(ctx); err != nil {
			return out, fault.StorageOutage(fmt.Errorf("report: %w", err))
		}
	}
	if out.KeyFiles, err = l.destroyKeyFiles(ctx); err != nil {
		return out, err
	}
	out.Totals = Shown(l.Lot, out.Totals)
	if !interrupted {
		if out.Described, err = l.Describe(ctx, false); err != nil {
			return out, err
		}
		out.Totals.InventoryPending, out.Totals.InventoryFailed = out.Described.Pending, out.Described.Failed
	}
	if totals.Released > 0 && !l.keyless() {
		out.Products = ProductsPath(l.Lot)
	}
	if len(l.Config.Report.Formats) > 0 {
		out.Report = l.reportDir()
	}
	out.Settled, out.Took = true, time.Since(l.opened)
	switch {
	case interrupted:
		return out, fault.As(fault.Interrupted, context.Canceled)
	case failed > 0:
		return out, fault.Told(fault.Devices, "%s failed or conflict", say.Count(failed, "device"))
	}
	return out, nil
}

// closeLot closes the books of a complete lot, with a checkpoint of the log. A
// lot that the server does not hold as it should stays open.
func (l *Lot) closeLot(ctx context.Context, out *Outcome) error {
	if err := l.verifyEnd(ctx, out); err != nil {
		return err
	}
	if err := l.openSigner(ctx); err != nil {
		return err
	}
	event, err := reports.Close(ctx, l.Ledger, l.Name, l.Config.Audit.Station)
	if _, ok := errors.AsType[*reports.ImbalanceError](err); ok {
		return l.investigate(err)
	}
	if err != nil {
		return err
	}
	if err := l.Ledger.CloseLot(ctx, l.Name, event); err != nil && !errors.Is(err, ledger.ErrLotClosed) {
		return err
	}
	if len(l.Config.Report.Formats) > 0 {
		return nil // the report signs it
	}
	return l.Sign(ctx)
}

// verifyEnd compares the lot with the server, as far as was asked, before it is
// closed.
func (l *Lot) verifyEnd(ctx context.Context, out *Outcome) (err error) {
	if l.opts.Verify == VerifyNone {
		return nil
	}
	ctx, ended := trace.Phase(ctx, "verify")
	defer func() { ended(&err) }()
	if err := l.openServer(ctx, 0); err != nil {
		return err
	}
	result, err := l.Verify(ctx, VerifyOptions{Sample: l.opts.Verify != VerifyAll})
	if err != nil {
		return err
	}
	out.Verified = &result
	if !result.OK {
		return fault.As(fault.Devices, pipeline.WithHint(
			fmt.Errorf("the server does not hold what it confirmed; lot %s stays open", l.Name),
			"See `keymill verify %s`; do not ship these devices.", l.Name))
	}
	return nil
}

// investigate is for books that do not add up.
func (l *Lot) investigate(err error) error {
	return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("the books of lot %s do not add up: %w", l.Lot.Name, err),
		"Do not ship this lot; keep the ledger and the folder %s for an investigation.", l.Lot.Out))
}

// writeFailures writes failures.csv, which can be run again as a manifest, or
// removes it where there is nothing in it. It returns its path, or "", and how
// many devices are in it: those that another lot took over are not.
func (l *Lot) writeFailures(ctx context.Context, totals pipeline.Totals) (string, int, error) {
	path, failed := filepath.Join(l.Lot.Out, "failures.csv"), 0
	if totals.Failed+totals.Conflict > 0 {
		err := files.Write(path, func(w io.Writer) error {
			rows := sources.NewFailuresWriter(w)
			for rec, err := range l.Ledger.Records(ctx, l.Lot.Name, pipeline.Failed, pipeline.Conflicted) {
				if err != nil {
					return err
				}
				failed++
				if err := rows.Write(rec); err != nil {
					return err
				}
			}
			return rows.Flush()
		})
		if err != nil || failed > 0 {
			return path, failed, err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", 0, err
	}
	return "", 0, nil
}

// writeReport brings out/LOT/report up to date.
func (l *Lot) writeReport(ctx context.Context) (err error) {
	if len(l.Config.Report.Formats) == 0 {
		return nil
	}
	ctx, ended := trace.Phase(ctx, "report")
	defer func() { ended(&err) }()
	if err := l.openSigner(ctx); err != nil {
		return err
	}
	subjects, err := l.subjects(ctx)
	if err != nil {
		return err
	}
	opt, err := l.signer.Exporting(l.Config, l.Ledger, l.Config.Report.Formats)
	if err != nil {
		return err
	}
	opt.Replace, opt.Subjects = true, subjects
	_, err = reports.Export(ctx, l.Ledger, l.Lot.Name, l.reportDir(), opt)
	if unsigned, ok := errors.AsType[*reports.UnsignedError](err); ok {
		l.opts.notice(fmt.Sprintf("No report yet: %v. Later: keymill export %s", unsigned, l.Name))
		return l.Sign(ctx)
	}
	return err
}

// subjects are the products that the statement names beside the images.
func (l *Lot) subjects(ctx context.Context) ([]reports.Subject, error) {
	path := PackPath(l.Lot)
	if l.Lot.Format != config.FormatPack {
		return nil, nil
	}
	sum, err := files.SHA256(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return []reports.Subject{{Name: filepath.Base(path), SHA256: sum}}, err
}

// reportDir is where the lot's report lies.
func (l *Lot) reportDir() string { return filepath.Join(l.Out, "report") }
