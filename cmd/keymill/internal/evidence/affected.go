package evidence

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/hsm"
	"keymill/pipeline"
	"keymill/reports"
)

// AffectedOptions say which devices are asked for; "" does not ask.
type AffectedOptions struct {
	Golden, Algorithm, Firmware, Tool string
	From, To                          string // RFC 3339, or a day in UTC; the day of To is included
	Dir                               string // of the signed listing; "" signs none
}

// asked reads what was asked for. A slip must not end in an empty list, which would
// say that no device is affected.
func (f AffectedOptions) asked() (a reports.Asked, err error) {
	for name, sum := range map[string]string{"--golden": f.Golden, "--tool-sha256": f.Tool} {
		if raw, err := hex.DecodeString(sum); err != nil || sum != "" && len(raw) != 32 {
			return a, fault.Usagef("%s %q is no SHA-256, which has 64 hexadecimal digits", name, sum)
		}
	}
	if f.Algorithm != "" {
		var known []string
		for _, one := range hsm.Algorithms() {
			known = append(known, string(one))
		}
		if !slices.Contains(known, f.Algorithm) {
			return a, fault.Usagef("--key-algorithm has %q; it can be %s%s", f.Algorithm, strings.Join(known, ", "), say.DidYouMean(say.Nearest(f.Algorithm, known)))
		}
	}
	a = reports.Asked{Golden: strings.ToLower(f.Golden), Tool: strings.ToLower(f.Tool), Algorithm: f.Algorithm, Firmware: f.Firmware}
	if a.From, err = moment("--from", f.From, 0); err != nil {
		return a, err
	}
	if a.To, err = moment("--to", f.To, 1); err != nil {
		return a, err
	}
	if a == (reports.Asked{}) {
		return a, fault.Usagef("say which devices are affected: --golden, --key-algorithm, --hsm-firmware, --tool-sha256, --from or --to")
	}
	if a.From != nil && a.To != nil && !a.From.Before(*a.To) {
		return a, fault.Usagef("--from %s is not before --to %s", f.From, f.To)
	}
	return a, nil
}

// moment reads a time, or a day, to which days are added.
func moment(flag, text string, days int) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		day = day.AddDate(0, 0, days)
		return &day, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fault.Usagef("%s %q: write a day such as 2027-03-31, or a time such as 2027-03-31T14:00:00Z", flag, text)
	}
	at = at.UTC()
	return &at, nil
}

// FindAffected looks through the ledger for affected devices, and writes the signed
// listing where one is wanted.
func FindAffected(ctx context.Context, o station.Options, f AffectedOptions) (found *reports.Affected, err error) {
	asked, err := f.asked()
	if err != nil {
		return nil, err
	}
	if f.Dir != "" && files.Exists(f.Dir) {
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s exists already; nothing was written", f.Dir), "Name another folder with -o."))
	}
	cfg, err := o.Settings.For(nil)
	if err != nil {
		return nil, err
	}
	known, err := station.OpenLedger(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, known.Close()) }()
	if found, err = reports.FindAffected(ctx, known, asked); err != nil || f.Dir == "" {
		return found, err
	}
	key, err := o.Signer(ctx, cfg, logs.New(cfg.Log, o.Hooks.LogTo))
	if err != nil {
		return nil, err
	}
	defer key.Close()
	err = reports.WriteAffected(ctx, f.Dir, found, reports.ListSigning{Station: cfg.Audit.Station, Signer: key.Signer,
		Time: time.Now().UTC().Format(time.RFC3339), MadeBy: "keymill " + build.Version()})
	if err != nil {
		return nil, exportFault(err)
	}
	return found, nil
}

// CheckList verifies a signed listing by the keys of the stations.
func CheckList(ctx context.Context, dir string, keys []string) (*reports.CheckedList, error) {
	trust, err := (&TrustFiles{Keys: keys}).Load()
	if err != nil {
		return nil, err
	}
	list, err := reports.VerifyList(ctx, dir, trust.Keys)
	if err != nil {
		return nil, Unreadable(ctx, err)
	}
	return list, nil
}
