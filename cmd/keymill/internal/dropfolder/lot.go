package dropfolder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/metrics"
	"keymill/cmd/keymill/internal/notify"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
)

// Result is what `batch --json` prints of a lot.
type Result struct {
	Lot      string           `json:"lot"`
	Manifest string           `json:"manifest"`
	Outcome  string           `json:"outcome"`
	ExitCode int              `json:"exit_code"`
	Error    string           `json:"error,omitempty"`
	Hint     string           `json:"hint,omitempty"`
	Totals   *pipeline.Totals `json:"totals,omitempty"`
	Moved    string           `json:"moved,omitempty"`
	kind     fault.Kind
	problems int
	late     bool // the manifest was changed after its lot was planned
}

// work carries one lot with the same code as `keymill run`, and puts its
// manifest where it belongs. outage says that the next lot would fare as this
// one; an error, that the folder cannot be worked with.
func (b *batch) work(ctx context.Context, d dropped) (outage bool, err error) {
	b.Begins(d.name())
	b.Log.Info("lot begins", "lot", d.lot, "manifest", d.name())
	b.tell(statusLine("lot " + d.lot + " begins"))
	working, ended := b.telemetry.Begin(ctx, b.Verb, d.lot)
	runErr := b.Settled(station.Run(working, b.Station, d.path, d.lot))
	ended(runErr)
	return outOfOrder(runErr), b.conclude(ctx, d, runErr)
}

// conclude tells what became of a lot, and puts its manifest where it belongs.
func (b *batch) conclude(ctx context.Context, d dropped, runErr error) (err error) {
	r := Result{Lot: d.lot, Manifest: d.name(), kind: fault.KindOf(runErr)}
	r.ExitCode = r.kind.ExitCode()
	if runErr != nil {
		b.Fault(runErr)
		r.Error, r.Hint = runErr.Error(), fault.Hint(runErr)
	}
	if r.Outcome = outcomeOf(r.kind); r.Outcome == metrics.Failed {
		b.retryAt[d.lot] = time.Now().Add(b.Config.Batch.Retry)
	}
	// What the lot came to is put down also when the batch was told to stop.
	err = b.settle(context.WithoutCancel(ctx), d, &r)
	b.worst = worse(b.worst, r.kind)
	b.meter.Ended(r.Outcome)
	if err != nil {
		return err
	}
	err = b.Ended(r)
	b.flush(ctx)
	b.show(ctx, false)
	if pushErr := b.meter.Push(ctx, time.Now(), false); pushErr != nil && ctx.Err() == nil {
		b.Log.Warn("metrics", "error", pushErr)
	}
	return err
}

func outcomeOf(kind fault.Kind) string {
	switch kind {
	case fault.None:
		return metrics.Closed
	case fault.Manifest:
		return metrics.Refused
	case fault.Interrupted:
		return metrics.Stopped
	}
	return metrics.Failed
}

// outOfOrder reports whether server or HSM are, so that the next lot would wait
// for them, too. What is wrong with a disk is found quickly, and can be one
// lot's own trouble, which must not keep the others back night after night.
func outOfOrder(err error) bool {
	kind := fault.KindOf(err)
	return kind == fault.Server || kind == fault.HSM
}

// severity orders how lots end; an interrupt beats all, as the batch is not at its end.
var severity = []fault.Kind{fault.None, fault.Manifest, fault.Devices, fault.Usage, fault.Server, fault.HSM, fault.Storage, fault.Internal, fault.Interrupted}

func worse(a, b fault.Kind) fault.Kind {
	if slices.Index(severity, b) > slices.Index(severity, a) {
		return b
	}
	return a
}

// settle writes down what a lot came to: first the notification, then the
// manifest's place, so that a crash between the two repeats both.
func (b *batch) settle(ctx context.Context, d dropped, r *Result) error {
	lot, totals, err := b.balance(ctx, d.lot)
	if err != nil && r.Outcome == metrics.Closed {
		return err
	}
	if err != nil {
		b.Log.Warn("the ledger does not tell how the lot stands", "lot", d.lot, "error", err)
	}
	r.Totals = totals
	n := &notify.Notification{
		Schema: notify.Schema, Time: time.Now().UTC(), Station: b.Config.Audit.Station, Lot: d.lot, Manifest: d.name(),
		ExitCode: r.ExitCode, Error: r.Error, Hint: r.Hint, Totals: totals,
	}
	stamp := strconv.FormatInt(n.Time.UnixMicro(), 10) // x.csv and x.xlsx may both be refused in one second
	switch r.Outcome {
	case metrics.Closed:
		if !lot.Closed.IsZero() {
			n.Time = lot.Closed
		}
		n.Event, n.ID = notify.LotClosed, "closed-"+d.lot
		n.Moved = b.folder.path("done", d.lot)
		if err := b.outbox.Put(n); err != nil {
			return err
		}
		report := filepath.Join(lot.Out, "report")
		if sum, err := files.SHA256(ctx, d.path); err != nil || sum != lot.ManifestSHA256 {
			return files.InOrder(
				func() error { return fault.Disk(err) },
				func() error { return b.folder.putReport(d.lot, report) },
				func() error { return b.refuseChanged(ctx, d, r, *n, lot.Devices) })
		}
		r.Moved, err = b.folder.finish(d, report)
		return err
	case metrics.Refused:
		return b.refuse(ctx, d, r, n, "refused-"+stamp+"-"+d.lot)
	case metrics.Failed:
		n.Event, n.ID = notify.LotFailed, "failed-"+stamp+"-"+d.lot
		return b.tellFailed(n)
	}
	return nil
}

// tellFailed tells of a failure, unless it is the one that was told last: a batch
// that watches meets the same conflict every few minutes.
func (b *batch) tellFailed(n *notify.Notification) error {
	same := *n
	same.ID, same.Time, same.Error = "", time.Time{}, "" // the text may name a time or a port
	text, err := json.Marshal(same)
	if err != nil || b.failed[n.Lot] == string(text) {
		return err
	}
	if err := b.outbox.Put(n); err != nil {
		return err
	}
	b.failed[n.Lot] = string(text)
	return nil
}

// balance returns how a lot stands, nil totals if the ledger does not have it.
func (b *batch) balance(ctx context.Context, name string) (lot pipeline.Lot, totals *pipeline.Totals, err error) {
	books, err := station.OpenKnown(ctx, b.Config.Ledger)
	if err != nil || books == nil {
		return lot, nil, err
	}
	defer books.Close()
	if lot, err = books.Lot(ctx, name); err != nil {
		if errors.Is(err, ledger.ErrNoLot) {
			err = nil
		}
		return lot, nil, err
	}
	t, err := books.Totals(ctx, name)
	return lot, &t, err
}

// refusal is the JSON beside a refused manifest.
type refusal struct {
	Manifest string            `json:"manifest"`
	Lot      string            `json:"lot"`
	Time     time.Time         `json:"time"`
	Error    string            `json:"error"`
	Hint     string            `json:"hint,omitempty"`
	Rows     int               `json:"rows"`
	Problems []sources.Problem `json:"problems"`
	More     int               `json:"more,omitempty"` // problems that are not listed
	late     bool
}

// mostReported is how many problems of a manifest are put down: a column that is
// wrong is wrong in every row.
const mostReported = 10_000

// refuse puts a refused manifest away, with all that is wrong with it.
func (b *batch) refuse(ctx context.Context, d dropped, r *Result, n *notify.Notification, id string) error {
	report := refusal{
		Manifest: d.name(), Lot: d.lot, Time: n.Time, Error: r.Error, Hint: r.Hint,
		Problems: []sources.Problem{}, late: r.late,
	}
	report.Rows = b.problems(ctx, d, func(p sources.Problem) {
		if len(report.Problems) < mostReported {
			report.Problems = append(report.Problems, p)
		} else {
			report.More++
		}
		if !p.Warning {
			r.problems++
		}
	})
	n.Event, n.ID, n.Problems = notify.LotRefused, id, r.problems
	n.Moved = b.folder.refusedAs(d)
	if err := b.outbox.Put(n); err != nil {
		return err
	}
	var err error
	r.Moved, err = b.folder.refuse(d, report.text, func(w io.Writer) error { return say.JSON(w, report) })
	return err
}

// refuseChanged refuses a manifest that was still being written when its lot was
// planned: what came after that is in no lot.
func (b *batch) refuseChanged(ctx context.Context, d dropped, r *Result, n notify.Notification, devices int) error {
	err := fault.As(fault.Manifest, pipeline.WithHint(
		fmt.Errorf("the manifest was changed after it was taken: lot %s was made, and closed, of the %s that it had then", d.lot, say.Count(devices, "device")),
		"Drop the rows that are missing under another name; write NAME.csv.part and rename it when it is complete."))
	r.late = true
	b.Fault(err)
	r.kind = fault.KindOf(err)
	r.Outcome, r.ExitCode, r.Error, r.Hint = metrics.Refused, r.kind.ExitCode(), err.Error(), fault.Hint(err)
	n.Time = time.Now().UTC()
	n.ExitCode, n.Error, n.Hint = r.ExitCode, r.Error, r.Hint
	return b.refuse(ctx, d, r, &n, fmt.Sprintf("refused-%d-%s", n.Time.UnixMicro(), d.lot))
}

// problems checks a manifest once more, for its report. That it cannot be read
// is in the report already.
func (b *batch) problems(ctx context.Context, d dropped, each func(sources.Problem)) (rows int) {
	books, err := station.OpenKnown(ctx, b.Config.Ledger)
	if err != nil {
		b.Log.Warn("the report lacks what other lots hold", "manifest", d.name(), "error", err)
	}
	if books != nil {
		defer books.Close()
	}
	manifest, err := station.OpenManifest(d.path, b.Config, d.lot, books)
	if err != nil {
		return 0
	}
	defer manifest.Close()
	summary, err := manifest.Check(ctx, each)
	if err != nil && !sources.Refused(err) {
		b.Log.Warn("the report is not complete", "manifest", d.name(), "error", err)
	}
	return summary.Rows
}

// text writes the report for people.
func (r refusal) text(w io.Writer) error {
	done, next := " Nothing was changed.", "Correct the manifest and drop it again."
	if r.late {
		done, next = "", "What the lot was made of stands in its report."
	}
	fmt.Fprintf(w, "%s was refused on %s.%s\n%s\n", r.Manifest, r.Time.Format(time.RFC3339), done, r.Error)
	if r.Hint != "" {
		fmt.Fprintf(w, "What to do: %s\n", r.Hint)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, p)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "%s more; `keymill check` lists all\n", say.Count(r.More, "problem"))
	}
	_, err := fmt.Fprintln(w, next)
	return err
}
