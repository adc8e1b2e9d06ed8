package main

import (
	"cmp"
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

// endRun writes down how the run ended, and then what settle does. carryErr is
// what stopped the run, nil if it came to its end or was drained.
func (j *job) endRun(ctx context.Context, line *pipeline.Line, started time.Time, carryErr error) error {
	// The books are closed also when the run was cut off.
	books := context.WithoutCancel(ctx)
	totals, err := j.ledger.Totals(books, j.lot.Name)
	if err != nil {
		return cmp.Or(carryErr, err)
	}
	reason := "complete"
	switch {
	case carryErr != nil:
		reason = carryErr.Error()
	case j.app.brake.draining():
		reason = "interrupted"
	}
	_, err = j.ledger.Append(books, pipeline.Event{
		Station: line.Station, Lot: j.lot.Name, Run: line.Run, Action: pipeline.ActionRunEnd, Reason: reason, Facts: totalFacts(totals),
	})
	if carryErr != nil || err != nil {
		return cmp.Or(carryErr, err)
	}
	return j.settle(ctx, totals, started)
}

// verifyEnd compares the lot with the server, as far as was asked, before it is
// closed. It returns what there is to say.
func (j *job) verifyEnd(ctx context.Context) (said string, err error) {
	if j.app.verifyHow == verifyNone {
		return "", nil
	}
	ctx, ended := trace.Phase(ctx, "verify")
	defer func() { ended(&err) }()
	if err := j.openServices(ctx, 0); err != nil {
		return "", err
	}
	v := &verification{job: j, sample: j.app.verifyHow != verifyAll}
	result, err := v.compare(ctx, nil)
	if err != nil {
		return "", err
	}
	if err := v.record(ctx, result); err != nil {
		return "", err
	}
	if !result.OK {
		printVerification(j.app.err, result)
		return "", fault.As(fault.Devices, pipeline.WithHint(
			fmt.Errorf("the server does not hold what it confirmed; lot %s stays open", j.lot.Name),
			"See `keymill verify %s`; do not ship these devices.", j.lot.Name))
	}
	return fmt.Sprintf("Verified: %d of the lot's devices compared with the server, all as they should be.\n", result.Devices), nil
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
	return facts(values)
}

// settle brings the lot's files up to date with the ledger, closes a lot that
// is complete, says how it stands, and returns the error for the exit code.
func (j *job) settle(ctx context.Context, totals pipeline.Totals, started time.Time) error {
	if err := totals.Check(); err != nil {
		return j.investigate(err)
	}
	failures, failed, err := j.writeFailures(ctx, totals)
	if err != nil {
		return fault.StorageOutage(err)
	}
	open := totals.Planned + totals.Staged + totals.Preauthorized
	said := ""
	if open+failed == 0 && j.lot.Closed.IsZero() {
		if said, err = j.closeLot(ctx); err != nil {
			return err
		}
	}
	interrupted := j.app.brake.draining() && open > 0
	if !interrupted {
		if err := j.writeReport(ctx); err != nil {
			return fault.StorageOutage(fmt.Errorf("report: %w", err))
		}
	}
	if err := j.summarize(totals, failures, said, time.Since(started)); err != nil {
		return err
	}
	switch {
	case interrupted:
		return fault.As(fault.Interrupted, context.Canceled)
	case failed > 0:
		return fault.Told(fault.Devices, "%s failed or conflict", say.Count(failed, "device"))
	}
	return nil
}

// closeLot closes the books of a complete lot, with a checkpoint of the log. A
// lot that the server does not hold as it should stays open.
func (j *job) closeLot(ctx context.Context) (said string, err error) {
	if said, err = j.verifyEnd(ctx); err != nil {
		return "", err
	}
	if err := j.openSigner(ctx); err != nil {
		return "", err
	}
	event, err := reports.Close(ctx, j.ledger, j.lot.Name, j.cfg.Audit.Station, j.signer)
	if _, ok := errors.AsType[*reports.ImbalanceError](err); ok {
		return "", j.investigate(err)
	}
	if err != nil {
		return "", err
	}
	if err := j.ledger.CloseLot(ctx, j.lot.Name, event); err != nil && !errors.Is(err, ledger.ErrLotClosed) {
		return "", err
	}
	return said, nil
}

// investigate is for books that do not add up.
func (j *job) investigate(err error) error {
	return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("the books of lot %s do not add up: %w", j.lot.Name, err),
		"Do not ship this lot; keep the ledger and the folder %s for an investigation.", j.lot.Out))
}

// writeFailures writes failures.csv, which can be run again as a manifest, or
// removes it where there is nothing in it. It returns its path, or "", and how
// many devices are in it: those that another lot took over are not.
func (j *job) writeFailures(ctx context.Context, totals pipeline.Totals) (string, int, error) {
	path, failed := filepath.Join(j.lot.Out, "failures.csv"), 0
	if totals.Failed+totals.Conflict > 0 {
		err := files.Write(path, func(w io.Writer) error {
			rows := sources.NewFailuresWriter(w)
			for rec, err := range j.ledger.Records(ctx, j.lot.Name, pipeline.Failed, pipeline.Conflicted) {
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
func (j *job) writeReport(ctx context.Context) (err error) {
	if len(j.cfg.Report.Formats) == 0 {
		return nil
	}
	ctx, ended := trace.Phase(ctx, "report")
	defer func() { ended(&err) }()
	if err := j.openSigner(ctx); err != nil {
		return err
	}
	subjects, err := j.subjects(ctx)
	if err != nil {
		return err
	}
	_, err = reports.Export(ctx, j.ledger, j.lot.Name, filepath.Join(j.lot.Out, "report"), reports.Options{
		Formats: j.cfg.Report.Formats, Station: j.cfg.Audit.Station, Signer: j.signer, Replace: true,
		Record: recordExport(j.ledger), Subjects: subjects,
	})
	return err
}

// subjects are the products that the statement names beside the images.
func (j *job) subjects(ctx context.Context) ([]reports.Subject, error) {
	path := packPath(j.lot)
	if j.lot.Format != config.FormatPack {
		return nil, nil
	}
	sum, err := files.SHA256(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return []reports.Subject{{Name: filepath.Base(path), SHA256: sum}}, err
}

// recordExport writes down that a run has left a report. The verb export records
// nothing: exporting again gives the same bytes.
func recordExport(known *ledger.Ledger) func(context.Context, pipeline.Event) error {
	return func(ctx context.Context, e pipeline.Event) error {
		_, err := known.Append(ctx, e)
		return err
	}
}

// summarize is the result of a run.
func (j *job) summarize(t pipeline.Totals, failures, said string, took time.Duration) error {
	if j.app.json {
		return j.app.writeJSON(t)
	}
	a := j.app
	a.printTotals(t)
	if t.Released > 0 {
		products := filepath.Join(j.lot.Out, "images")
		if j.lot.Format == config.FormatPack {
			products = packPath(j.lot)
		}
		a.printf("Products: %s\n", products)
	}
	if len(j.cfg.Report.Formats) > 0 {
		a.printf("Report:   %s\n", filepath.Join(j.lot.Out, "report"))
	}
	if failures != "" {
		a.printf("Failures: %s (run it again as a manifest, or `keymill retry %s`)\n", failures, j.lot.Name)
	}
	a.printf("%sTook %s.\n", said, took.Round(10*time.Millisecond))
	return nil
}

// printTotals shows a lot's balance; the lines add up.
func (a *app) printTotals(t pipeline.Totals) {
	a.printf("Lot %s: %d devices\n", t.Lot, t.Devices)
	for _, state := range pipeline.States {
		if n := *t.Count(state); n > 0 || state == pipeline.Released || state == pipeline.Failed || state == pipeline.Conflicted {
			a.printf("  %-14s %d\n", state, n)
		}
	}
	k := t.Keys
	a.printf("Keys: %d generated = %d released + %d destroyed + %d held for devices under way\n",
		k.Generated, k.Released, k.Destroyed, k.Generated-k.Released-k.Destroyed)
}
