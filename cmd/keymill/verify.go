package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender"
)

// How much of a lot is compared with the server.
const (
	verifyAll    = "all"
	verifySample = "sample"
	verifyNone   = "none"
)

// sampleSize is how many devices of a lot a sample has: 1 %, at least 50.
func sampleSize(devices int) int { return max(devices/100, 50) }

func (a *app) verifyCmd() *cobra.Command {
	var asCSV, unexpected, watch, sample bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "verify LOT",
		Short: "Compare ledger and server, device by device",
		Long: `Verify pages through the server's devices and says of each device of the lot what the
server holds: preauthorized, accepted (and since when), pending, rejected, missing,
another key, a second key. It ends with 4 when something is off.

` + exitCodesHelp,
		Example: "  keymill verify 2026-W47\n  keymill verify 2026-W47 --csv > verify.csv\n  keymill verify 2026-W47 --watch",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.openVerify(cmd, args[0])
			if err != nil {
				return err
			}
			defer v.Close()
			v.csv, v.unexpected, v.sample = asCSV, unexpected, sample
			if watch {
				return v.watch(cmd.Context(), every)
			}
			return v.once(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print one line for each device as CSV")
	cmd.Flags().BoolVar(&unexpected, "unexpected", false, "report the server's devices that are not of this lot as well")
	cmd.Flags().BoolVar(&sample, "sample", false, "compare a random sample only: 1 %, at least 50")
	cmd.Flags().BoolVar(&watch, "watch", false, "follow the lot's first boots until all devices are accepted")
	cmd.Flags().DurationVar(&every, "every", 30*time.Second, "time between two looks of --watch")
	addSettings(cmd, "server", "token-file", "ca-file", "in-flight")
	a.jsonFlag(cmd)
	return cmd
}

// verification is a lot being compared with its server.
type verification struct {
	*job
	csv, unexpected, sample bool
}

func (a *app) openVerify(cmd *cobra.Command, name string) (*verification, error) {
	j, err := a.openPlanned(cmd, name)
	if err != nil {
		return nil, err
	}
	if j.server, err = a.openServer(j.cfg, j.log); err != nil {
		return nil, files.Closing(j, err)
	}
	return &verification{job: j}, nil
}

// openPlanned opens a lot that the ledger must have.
func (a *app) openPlanned(cmd *cobra.Command, name string) (*job, error) {
	known, err := a.openLedger(cmd)
	if err != nil {
		return nil, err
	}
	_, err = findLot(cmd, known, name)
	if err := files.Closing(known, err); err != nil {
		return nil, err
	}
	j, _, err := a.openJob(cmd, name)
	return j, err
}

// expectedOf yields the devices of a lot that the server should know.
func expectedOf(ctx context.Context, known *ledger.Ledger, lot string) iter.Seq2[mender.Expected, error] {
	return func(yield func(mender.Expected, error) bool) {
		for rec, err := range known.Records(ctx, lot, pipeline.Preauthorized, pipeline.Released, pipeline.Failed) {
			if err == nil && rec.Auth.Status == "" {
				continue
			}
			var e mender.Expected
			if err == nil {
				e = mender.Expected{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// findings compares what there is to compare.
func (v *verification) findings(ctx context.Context) iter.Seq2[mender.Finding, error] {
	expected := expectedOf(ctx, v.ledger, v.lot.Name)
	if !v.sample {
		return v.server.Verify(ctx, expected, mender.VerifyOptions{Unexpected: v.unexpected})
	}
	picked, err := mender.Sample(expected, sampleSize(v.lot.Devices))
	return func(yield func(mender.Finding, error) bool) {
		if err != nil {
			yield(mender.Finding{}, err)
			return
		}
		for f, err := range v.server.VerifyEach(ctx, withoutErrors(picked)) {
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

func withoutErrors(picked []mender.Expected) iter.Seq2[mender.Expected, error] {
	return func(yield func(mender.Expected, error) bool) {
		for _, e := range picked {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// verified is the JSON of `verify --json`.
type verified struct {
	Lot     string                  `json:"lot"`
	Devices int                     `json:"devices"`
	OK      bool                    `json:"ok"`
	Counts  map[mender.Category]int `json:"counts"`
	Off     []verifiedDevice        `json:"off"`
}

type verifiedDevice struct {
	Category mender.Category   `json:"category"`
	Identity map[string]string `json:"identity,omitempty"`
	DeviceID string            `json:"device_id,omitempty"`
	Since    *time.Time        `json:"since,omitempty"`
	SPKI     string            `json:"spki_sha256,omitempty"`
}

// maxOff is how many devices that are off are kept for the table and the JSON;
// --csv has them all.
const maxOff = 1000

func (v *verification) compare(ctx context.Context, each func(mender.Finding) error) (verified, error) {
	result := verified{Lot: v.lot.Name, OK: true, Counts: map[mender.Category]int{}, Off: []verifiedDevice{}}
	for f, err := range v.findings(ctx) {
		if err != nil {
			return result, err
		}
		result.Devices++
		result.Counts[f.Category]++
		if !f.Category.OK() && f.Category != mender.CatUnexpected {
			result.OK = false
		}
		if !f.Category.OK() && len(result.Off) < maxOff {
			result.Off = append(result.Off, viewFinding(f))
		}
		if each != nil {
			if err := each(f); err != nil {
				return result, err
			}
		}
	}
	return result, nil
}

func viewFinding(f mender.Finding) verifiedDevice {
	dev := verifiedDevice{Category: f.Category, DeviceID: f.DeviceID, SPKI: f.Fingerprint, Identity: map[string]string{}}
	for _, attr := range f.Identity {
		dev.Identity[attr.Name] = attr.Value
	}
	if !f.Since.IsZero() {
		since := f.Since.UTC()
		dev.Since = &since
	}
	return dev
}

// once compares, prints, and writes down that it was compared.
func (v *verification) once(ctx context.Context) error {
	var each func(mender.Finding) error
	if v.csv {
		rows := csv.NewWriter(v.app.out)
		defer rows.Flush()
		if err := rows.Write([]string{"identity", "category", "device_id", "since", "spki_sha256"}); err != nil {
			return err
		}
		each = func(f mender.Finding) error {
			since := ""
			if !f.Since.IsZero() {
				since = f.Since.UTC().Format(time.RFC3339)
			}
			return rows.Write([]string{f.Identity.String(), string(f.Category), f.DeviceID, since, f.Fingerprint})
		}
	}
	result, err := v.compare(ctx, each)
	if err != nil {
		return err
	}
	switch {
	case v.app.json:
		if err := v.app.writeJSON(result); err != nil {
			return err
		}
	case !v.csv:
		printVerification(v.app.out, result)
	}
	if err := v.record(ctx, result); err != nil {
		return err
	}
	if !result.OK {
		return fault.Told(fault.Devices, "ledger and server differ")
	}
	return nil
}

func (v *verification) record(ctx context.Context, result verified) error {
	values := map[string]string{"devices": strconv.Itoa(result.Devices)}
	for category, n := range result.Counts {
		values[string(category)] = strconv.Itoa(n)
	}
	_, err := v.ledger.Append(ctx, pipeline.Event{
		Station: v.cfg.Audit.Station, Lot: v.lot.Name, Action: pipeline.ActionVerify, Facts: facts(values),
	})
	return err
}

func printVerification(w io.Writer, result verified) {
	fmt.Fprintf(w, "Lot %s: %d devices compared with the server\n", result.Lot, result.Devices)
	for _, category := range mender.Categories {
		if n := result.Counts[category]; n > 0 {
			fmt.Fprintf(w, "  %-14s %d\n", category, n)
		}
	}
	for i, dev := range result.Off {
		if i == 20 {
			fmt.Fprintf(w, "  .. and more; --csv lists all\n")
			break
		}
		fmt.Fprintf(w, "  %s: %v %s\n", dev.Category, dev.Identity, dev.DeviceID)
	}
}

// watch looks again and again until every device was accepted, and says what
// changed.
func (v *verification) watch(ctx context.Context, every time.Duration) error {
	ticker := time.NewTicker(max(every, time.Second))
	defer ticker.Stop()
	last := ""
	for {
		result, err := v.compare(ctx, nil)
		if err != nil {
			return err
		}
		now := summaryLine(result)
		if now != last {
			v.app.printf("%s  %s\n", time.Now().Format("15:04:05"), now)
			last = now
		}
		if result.Counts[mender.CatAccepted] == result.Devices-result.Counts[mender.CatUnexpected] {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func summaryLine(result verified) string {
	line := ""
	for _, category := range slices.Backward(mender.Categories) {
		if n := result.Counts[category]; n > 0 {
			line = fmt.Sprintf("%d %s  ", n, category) + line
		}
	}
	return line
}
