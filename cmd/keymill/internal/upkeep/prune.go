package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender"
)

// Remains is what is left of a closed lot on this machine. Its JSON is an
// element of `ledger prune --json`.
type Remains struct {
	Lot       string    `json:"lot"`
	Closed    time.Time `json:"closed"`
	Reason    string    `json:"reason"`
	Files     int       `json:"files"`
	Bytes     int64     `json:"bytes"`
	Destroyed bool      `json:"destroyed"`
}

// Rule says which closed lots are done with. The zero rule: none.
type Rule struct {
	byAge    bool
	age      time.Duration
	accepted bool
	// TrustClock counts a lot's age by this machine's clock alone.
	TrustClock bool
}

// maxGap is how much of the time between two things that the ledger saw counts at
// most for a lot's age. A clock that was wrong when a lot was closed, or is wrong
// now, leaves a gap of months or years: it must not make last night's lot look
// old, as its pack would be destroyed.
const maxGap = 7 * 24 * time.Hour

// age is how long ago a lot was closed, as far as the ledger saw the time pass.
// seen are the times of what it saw, sorted.
func age(seen []time.Time, closed, now time.Time) time.Duration {
	var total time.Duration
	at := closed
	for _, next := range append(slices.Clone(seen), now) {
		if next.After(at) {
			total += min(next.Sub(at), maxGap)
			at = next
		}
	}
	return total
}

// seenBy returns the times of what the ledger saw, sorted.
func seenBy(ctx context.Context, known *ledger.Ledger, lots []pipeline.Lot) ([]time.Time, error) {
	last, err := known.LastEvent(ctx)
	if err != nil {
		return nil, err
	}
	seen := []time.Time{last}
	for _, lot := range lots {
		seen = append(seen, lot.Created, lot.Closed)
	}
	slices.SortFunc(seen, time.Time.Compare)
	return seen, nil
}

// Retention is the rule that the settings make.
func Retention(cfg *config.Config, accepted bool) (Rule, error) {
	age, err := config.ParseAge(cfg.Retention.OlderThan)
	if err != nil || age < 0 {
		return Rule{accepted: accepted}, err
	}
	return Rule{byAge: true, age: age, accepted: accepted}, nil
}

// Prune returns what is left of lots that are done with, up to the error;
// with yes, it destroys that.
func Prune(ctx context.Context, o station.Options, cfg *config.Config, known *ledger.Ledger, rule Rule, yes bool) ([]Remains, error) {
	all := []Remains{}
	lots, err := known.Lots(ctx)
	if err != nil {
		return all, err
	}
	seen, err := seenBy(ctx, known, lots)
	if err != nil {
		return all, err
	}
	if rule.TrustClock {
		seen = nil
	}
	for _, lot := range lots {
		if lot.Closed.IsZero() {
			continue
		}
		found, err := remainsOf(ctx, known, lot)
		if err != nil {
			return all, err
		}
		if found.Files == 0 {
			continue
		}
		if found.Reason, err = doneWith(ctx, o, lot, rule, seen); err != nil {
			return all, err
		}
		if found.Reason == "" {
			continue
		}
		if yes {
			if err := destroyRemains(ctx, known, cfg, lot, found); err != nil {
				return all, err
			}
			found.Destroyed = true
		}
		all = append(all, found)
	}
	return all, nil
}

// doneWith says why a closed lot's images are needed no more, "" if they are.
// seen are the times of what the ledger saw; nil has the clock trusted.
func doneWith(ctx context.Context, o station.Options, lot pipeline.Lot, rule Rule, seen []time.Time) (string, error) {
	old := time.Since(lot.Closed)
	if seen != nil {
		old = age(seen, lot.Closed, time.Now())
	}
	if rule.byAge && old >= rule.age {
		return fmt.Sprintf("closed %s ago", say.Count(int(old/(24*time.Hour)), "day")), nil
	}
	if !rule.accepted {
		return "", nil
	}
	l, err := station.OpenPlanned(ctx, o, lot.Name)
	if err != nil {
		return "", err
	}
	defer l.Close()
	result, err := l.Verify(ctx, station.VerifyOptions{})
	if err != nil {
		return "", err
	}
	if !result.OK || result.Counts[mender.CatAccepted] != lot.Devices {
		return "", nil
	}
	return fmt.Sprintf("the server accepted all %s", say.Count(lot.Devices, "device")), nil
}

// remainsOf counts a lot's files that hold private keys.
func remainsOf(ctx context.Context, known *ledger.Ledger, lot pipeline.Lot) (Remains, error) {
	found := Remains{Lot: lot.Name, Closed: lot.Closed}
	add := func(path string) error {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fault.StorageOutage(err)
		}
		found.Files, found.Bytes = found.Files+1, found.Bytes+info.Size()
		return nil
	}
	if err := add(station.PackPath(lot)); err != nil {
		return found, err
	}
	for rec, err := range known.Records(ctx, lot.Name) {
		if err != nil {
			return found, err
		}
		if rec.Output.Name == "" {
			continue
		}
		if err := add(filepath.Join(lot.Out, "images", rec.Output.Name)); err != nil {
			return found, err
		}
	}
	return found, nil
}

// destroyRemains destroys a closed lot's pack and images. The event comes first:
// what was destroyed is never missing in the log, and what was announced and is
// still there is found by the next prune.
func destroyRemains(ctx context.Context, known *ledger.Ledger, cfg *config.Config, lot pipeline.Lot, found Remains) error {
	pack, err := imaging.OpenPack(station.PackPath(lot))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.StorageOutage(err)
	}
	_, err = known.Append(ctx, pipeline.Event{
		Station: cfg.Audit.Station, Lot: lot.Name, Action: pipeline.ActionPrune, Reason: found.Reason,
		Facts: station.Facts(map[string]string{
			"files": strconv.Itoa(found.Files), "bytes": strconv.FormatInt(found.Bytes, 10), "operator": cfg.Audit.Operator,
		}),
	})
	if err == nil { // while the pack says where the keys lie
		err = removeImages(ctx, known, lot, pack)
	}
	if pack != nil {
		if err == nil {
			err = wipePack(ctx, pack)
		}
		if err = files.Closing(pack, err); err == nil {
			err = os.Remove(station.PackPath(lot))
		}
	}
	if err != nil {
		return fault.Disk(err)
	}
	// Stays where it holds something else.
	_ = os.Remove(filepath.Join(lot.Out, "images"))
	return nil
}

// removeImages destroys the lot's published images.
func removeImages(ctx context.Context, known *ledger.Ledger, lot pipeline.Lot, pack *imaging.Pack) error {
	for rec, err := range known.Records(ctx, lot.Name) {
		if err != nil {
			return err
		}
		if _, err := station.RemoveImage(ctx, lot, rec, pack); err != nil {
			return err
		}
	}
	return nil
}

// wipePack overwrites every key in a pack: removing a file leaves its blocks.
func wipePack(ctx context.Context, pack *imaging.Pack) error {
	var refs []imaging.Ref
	for entry, err := range pack.Entries(ctx) {
		if err != nil {
			return fault.StorageOutage(err)
		}
		if !entry.Destroyed {
			refs = append(refs, entry.Ref)
		}
	}
	const batch = 1000
	for len(refs) > 0 {
		n := min(len(refs), batch)
		if err := pack.Destroy(refs[:n]...); err != nil {
			return fault.StorageOutage(err)
		}
		refs = refs[n:]
	}
	return nil
}
