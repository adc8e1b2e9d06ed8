package station

import (
	"context"
	"iter"
	"strconv"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender"
)

// How much of a lot is compared with the server.
const (
	VerifyAll    = "all"
	VerifySample = "sample"
	VerifyNone   = "none"
)

// sampleSize is how many devices of a lot a sample has: 1 %, at least 50.
func sampleSize(devices int) int { return max(devices/100, 50) }

// VerifyOptions say what is compared.
type VerifyOptions struct {
	Sample     bool // a random sample only
	Inventory  bool // compare the server's inventory with server.device, too
	Unexpected bool // report the server's devices that are not of this lot, too
	// Each is told every finding; nil is allowed.
	Each func(mender.Finding) error
}

// Verify compares ledger and server, and writes down that it did.
func (l *Lot) Verify(ctx context.Context, o VerifyOptions) (Verified, error) {
	result, err := l.Compare(ctx, o)
	if err != nil {
		return result, err
	}
	values := map[string]string{"devices": strconv.Itoa(result.Devices)}
	for category, n := range result.Counts {
		values[string(category)] = strconv.Itoa(n)
	}
	_, err = l.Ledger.Append(ctx, pipeline.Event{
		Station: l.Config.Audit.Station, Lot: l.Name, Action: pipeline.ActionVerify, Facts: Facts(values),
	})
	return result, err
}

// Compare compares ledger and server, and writes nothing down.
func (l *Lot) Compare(ctx context.Context, o VerifyOptions) (Verified, error) {
	result := Verified{Lot: l.Name, OK: true, Counts: map[mender.Category]int{}, Off: []VerifiedDevice{}, Lingering: []VerifiedDevice{}}
	if l.Server == nil {
		var err error
		if l.Server, err = l.opts.OpenServer(l.Config, l.Log); err != nil {
			return result, err
		}
	}
	for f, err := range l.findings(ctx, o) {
		if err != nil {
			return result, err
		}
		result.Devices++
		result.Counts[f.Category]++
		if f.Ours == mender.StatusAccepted && f.Category.OK() {
			result.Accepted++
		}
		if !f.Category.OK() && f.Category != mender.CatUnexpected {
			result.OK = false
		}
		if (!f.Category.OK() || f.Category == mender.CatKnocking) && len(result.Off) < maxOff {
			result.Off = append(result.Off, viewFinding(f))
		}
		if o.Each != nil {
			if err := o.Each(f); err != nil {
				return result, err
			}
		}
	}
	if err := l.compareUndone(ctx, &result); err != nil || !o.Inventory {
		return result, err
	}
	return result, l.compareInventory(ctx, &result)
}

// compareUndone looks for keys of devices that were taken back. One that the
// server is still deleting can't be used any more; all others are off.
func (l *Lot) compareUndone(ctx context.Context, result *Verified) error {
	for f, err := range l.Server.Lingering(ctx, undoneOf(ctx, l.Ledger, l.Name, &result.Undone)) {
		if err != nil {
			return err
		}
		if f.Category != mender.CatDeleting {
			result.OK = false
		}
		if result.Left++; len(result.Lingering) < maxOff {
			result.Lingering = append(result.Lingering, viewFinding(f))
		}
	}
	return nil
}

// undoneOf yields the devices of a lot that the server should have forgotten,
// and counts them.
func undoneOf(ctx context.Context, known *ledger.Ledger, lot string, n *int) iter.Seq2[mender.Expected, error] {
	return func(yield func(mender.Expected, error) bool) {
		for rec, err := range known.Records(ctx, lot, pipeline.Undone) {
			var e mender.Expected
			if err == nil {
				*n++
				e = mender.Expected{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
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
func (l *Lot) findings(ctx context.Context, o VerifyOptions) iter.Seq2[mender.Finding, error] {
	expected := expectedOf(ctx, l.Ledger, l.Name)
	if !o.Sample {
		return l.Server.Verify(ctx, expected, mender.VerifyOptions{Unexpected: o.Unexpected})
	}
	picked, err := mender.Sample(expected, sampleSize(l.Devices))
	return func(yield func(mender.Finding, error) bool) {
		if err != nil {
			yield(mender.Finding{}, err)
			return
		}
		for f, err := range l.Server.Verify(ctx, withoutErrors(picked), mender.VerifyOptions{}) {
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

// Verified is the JSON of `verify --json`.
type Verified struct {
	Lot     string                  `json:"lot"`
	Devices int                     `json:"devices"`
	OK      bool                    `json:"ok"`
	Counts  map[mender.Category]int `json:"counts"`
	// Accepted is how many devices have booted with our key, knocking ones included.
	Accepted int              `json:"accepted"`
	Off      []VerifiedDevice `json:"off"`
	// Undone is how many devices were compared that were taken back; Left of
	// them are still on the server, Lingering are the first of these.
	Undone    int              `json:"undone,omitempty"`
	Left      int              `json:"left,omitempty"`
	Lingering []VerifiedDevice `json:"lingering,omitempty"`
	// Inventory is set where server.device says what it should say.
	Inventory *VerifiedInventory `json:"inventory,omitempty"`
}

// VerifiedDevice is a device that is not as it should be.
type VerifiedDevice struct {
	Category mender.Category   `json:"category"`
	Identity map[string]string `json:"identity,omitempty"`
	DeviceID string            `json:"device_id,omitempty"`
	Ours     string            `json:"ours,omitempty"` // status of our own key, where another one gives the category
	Since    *time.Time        `json:"since,omitempty"`
	SPKI     string            `json:"spki_sha256,omitempty"`
}

// maxOff is how many devices that are off are kept for the table and the JSON;
// --csv has them all.
const maxOff = 1000

func viewFinding(f mender.Finding) VerifiedDevice {
	dev := VerifiedDevice{Category: f.Category, DeviceID: f.DeviceID, SPKI: f.Fingerprint, Identity: map[string]string{}}
	for _, attr := range f.Identity {
		dev.Identity[attr.Name] = attr.Value
	}
	if f.Ours != string(f.Category) {
		dev.Ours = f.Ours
	}
	if !f.Since.IsZero() {
		since := f.Since.UTC()
		dev.Since = &since
	}
	return dev
}
