package station

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Resume prepares a lot that the ledger has, after making sure that manifest,
// golden image and settings are those that it was planned with.
func (l *Lot) Resume(ctx context.Context, manifest string) error {
	sum, err := files.SHA256(ctx, manifest)
	if err != nil {
		return fault.As(fault.Manifest, fmt.Errorf("manifest: %w", err))
	}
	return l.reopen(ctx, manifest, sum)
}

// Reopen prepares a lot that the ledger has; its manifest is not looked at.
func (l *Lot) Reopen(ctx context.Context) error {
	return l.reopen(ctx, l.ManifestPath, l.ManifestSHA256)
}

// reopen opens golden for a planned lot.
func (l *Lot) reopen(ctx context.Context, manifest, sum string) error {
	if err := l.openGolden(ctx, l.Created); err != nil {
		return err
	}
	asked, err := l.describeLot(l.Name, manifest, sum, l.Devices)
	if err != nil {
		return err
	}
	if l.opts.Shared {
		l.Out, l.Station = asked.Out, asked.Station
	}
	return sameLot(l.Lot, asked)
}

// Plan validates everything there is to validate, and only then makes the lot.
func (l *Lot) Plan(ctx context.Context, path string) (err error) {
	ctx, ended := trace.Phase(ctx, "plan")
	defer func() { ended(&err) }()
	manifest, err := OpenManifest(path, l.Config, l.Name, l.Ledger)
	if err != nil {
		return err
	}
	defer manifest.Close()
	summary, err := l.opts.checkManifest(ctx, manifest)
	if err != nil {
		return err
	}
	if err := l.checkGiven(ctx, manifest.Devices(ctx)); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	if err := l.openGolden(ctx, now); err != nil {
		return err
	}
	if err := l.openAuthority(ctx); err != nil {
		return err
	}
	if err := l.tryGolden(ctx); err != nil {
		return err
	}
	if err := l.warnOfTiers(ctx); err != nil {
		return err
	}
	if l.Lot, err = l.describeLot(l.Name, path, summary.SHA256, summary.Rows); err != nil {
		return err
	}
	l.Created, l.Unique = now, summary.Unique
	if !l.restoring {
		if err := l.freshOut(ctx, l.Out); err != nil {
			return err
		}
	}
	if l.Ledger != nil { // one that is there already
		if err := l.checkHeads(ctx); err != nil {
			return err
		}
	}
	if err := l.checkWorkOrder(ctx); err != nil {
		return err
	}
	if err := l.openServices(ctx, summary.Rows); err != nil {
		return err
	}
	if err := l.enoughDisk(summary.Rows); err != nil {
		return err
	}
	if l.Ledger == nil {
		if l.Ledger, err = ledger.Open(ctx, l.Config.Ledger); err != nil {
			return err
		}
	}
	facts := map[string]string{
		"manifest_sha256": summary.SHA256, "devices": strconv.Itoa(summary.Rows), "golden_sha256": l.GoldenSHA256,
		"inject_sha256": l.InjectSHA256, "format": l.Format, "identity": strings.Join(summary.Identity, ","),
	}
	maps.Copy(facts, l.order.facts())
	event := pipeline.Event{Station: l.Station, Lot: l.Name, Action: pipeline.ActionPlan, Facts: Facts(facts)}
	err = l.Ledger.Plan(ctx, l.Lot, event, l.distinctNames(l.certifiable(l.allowed(manifest.Devices(ctx)))))
	if sourceErr, ok := errors.AsType[*nameTaken](err); ok {
		return fault.As(fault.Manifest, pipeline.WithHint(sourceErr,
			"Images are named after the identity's first value: put one first in manifest.identity that is different for each device."))
	}
	if same, ok := errors.AsType[*ledger.NotUniqueError](err); ok {
		return fault.As(fault.Manifest, pipeline.WithHint(fmt.Errorf("%w; nothing was changed", same),
			"Find out which of the two is right; manifest.unique lists what must be unique."))
	}
	if errors.Is(err, ledger.ErrOutTaken) {
		return fault.As(fault.Usage, err)
	}
	if errors.Is(err, ledger.ErrLotExists) {
		return fault.As(fault.Usage, pipeline.WithHint(err, "Another keymill planned it meanwhile; run the same command again when that one has ended."))
	}
	return err
}

// nameTaken says that two devices would have the same image file.
type nameTaken struct {
	row  int
	name string
}

func (n *nameTaken) Error() string {
	return fmt.Sprintf("row %d: another device's image is named %s already; nothing was changed", n.row, n.name)
}

// distinctNames passes devices on as long as their image files have names of
// their own.
func (l *Lot) distinctNames(devices iter.Seq2[pipeline.Device, error]) iter.Seq2[pipeline.Device, error] {
	if l.Format == config.FormatPack {
		return devices
	}
	return func(yield func(pipeline.Device, error) bool) {
		seed, seen := maphash.MakeSeed(), map[uint64]struct{}{}
		for dev, err := range devices {
			if err == nil {
				name := strings.ToLower(files.SafeName(dev.Identity.Name()))
				sum := maphash.String(seed, name)
				if _, taken := seen[sum]; taken {
					err = &nameTaken{dev.Row, name}
				}
				seen[sum] = struct{}{}
			}
			if !yield(dev, err) || err != nil {
				return
			}
		}
	}
}

// Facts makes an event's facts of a map: sorted, empty ones left out.
func Facts(values map[string]string) []pipeline.Attr {
	var list []pipeline.Attr
	for name, value := range values {
		if value != "" {
			list = append(list, pipeline.Attr{Name: name, Value: value})
		}
	}
	slices.SortFunc(list, func(a, b pipeline.Attr) int { return strings.Compare(a.Name, b.Name) })
	return list
}
