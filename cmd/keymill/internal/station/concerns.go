package station

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// serverRate is how many preauthorizations a second a real server takes at best.
const serverRate = 400.0

// lotPlan is what the configuration wants of the server for a lot that adds so
// many devices and takes so long.
func lotPlan(cfg *config.Config, adds int, takes time.Duration) mender.LotPlan {
	return mender.LotPlan{
		Adds: adds, Takes: takes, Drawer: cfg.Server.ShelfFor(), Identity: cfg.Manifest.Identity,
		Inventory:      cfg.Server.Device.Name != "" || cfg.Server.Device.Group != "" || len(cfg.Server.Device.Tags) > 0,
		AllowOverLimit: cfg.Server.OverLimit == "allow",
	}
}

// Refusal is the first concern that keeps a lot from a good end, as an error;
// nil if there is none.
func Refusal(concerns []mender.Concern) error {
	for _, c := range concerns {
		if c.Fatal {
			return fault.As(fault.Server, pipeline.WithHint(fmt.Errorf("%s; nothing was changed", c.Text), "%s", c.Hint))
		}
	}
	return nil
}

// worry logs what stands in the way of a lot that adds so many devices, and
// refuses it where that can't end well.
func (l *Lot) worry(probe *mender.Probe, adds int) error {
	takes := time.Duration(float64(adds) / serverRate * float64(time.Second))
	concerns := probe.Concerns(lotPlan(l.Config, adds, takes), time.Now())
	for _, c := range concerns {
		if !c.Fatal {
			l.Log.Warn(c.Text, "hint", c.Hint)
		}
	}
	return Refusal(concerns)
}

// adds returns how many of the devices that are due are new to the server. Those
// that are staged may be there already; counting them twice would refuse a lot
// that fits and was interrupted.
func (l *Lot) adds(ctx context.Context, due int) (int, error) {
	if !l.planned || due == 0 {
		return due, nil
	}
	totals, err := l.Ledger.Totals(ctx, l.Name)
	return min(totals.Planned, due), err
}

// deviceTier is what a mender.conf in the golden image says.
type deviceTier struct {
	path string
	tier string // standard where it says none
}

// goldenTiers reads DeviceTier in the mender.conf files of the golden image, in
// its root file systems and its data partition, and of what is injected. Client
// 5.1 sends it with its key; its daemon doesn't start with a value that it
// doesn't know.
func (l *Lot) goldenTiers(ctx context.Context) ([]deviceTier, error) {
	var found []deviceTier
	add := func(at string, content []byte) error {
		var conf struct {
			DeviceTier string `json:"DeviceTier"`
		}
		_ = json.Unmarshal(content, &conf) // what is no JSON is no concern of ours
		if conf.DeviceTier == "" {
			return nil
		}
		if err := mender.CheckTier(conf.DeviceTier); err != nil {
			return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("golden image: DeviceTier in %s: %w", at, err),
				"The client's daemon doesn't start with it: make it standard, micro or system in the image. Nothing was changed."))
		}
		found = append(found, deviceTier{at, conf.DeviceTier})
		return nil
	}
	golden := l.images.golden
	places := []string{"/data/mender/mender.conf", "/data/etc/mender/mender.conf"}
	for _, p := range golden.Table().Partitions {
		for _, at := range []string{"/etc/mender/mender.conf", "/usr/share/mender/mender.conf"} {
			places = append(places, fmt.Sprintf("partition:%d:%s", p.Number, at))
		}
	}
	for _, place := range places {
		content, err := golden.ReadFile(ctx, place)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // not there, or no file system that we read
		}
		if err := add(place, content); err != nil {
			return nil, err
		}
	}
	for i, inject := range l.Config.Image.Inject {
		if content := l.images.render.Fixed(i); content != nil && path.Base(inject.Path) == "mender.conf" {
			if err := add(inject.Path, content); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// tierConcerns compares the image's tiers with the one that is preauthorized.
func (l *Lot) tierConcerns(ctx context.Context) ([]mender.Concern, error) {
	if l.keyless() {
		return nil, nil
	}
	tiers, err := l.goldenTiers(ctx)
	if err != nil {
		return nil, err
	}
	var concerns []mender.Concern
	want := l.Config.Server.Tier
	for _, t := range tiers {
		if t.tier != want {
			concerns = append(concerns, mender.Concern{
				Kind: mender.ConcernTier,
				Text: fmt.Sprintf("DeviceTier in %s is %s, but server.tier is %s", t.path, t.tier, want),
				Hint: fmt.Sprintf("A server with tiers takes devices of this lot for others, and they stay pending: set server.tier to %s, or change the image.", t.tier),
			})
		}
	}
	if len(tiers) == 0 && want != mender.TierStandard {
		concerns = append(concerns, mender.Concern{
			Kind: mender.ConcernTier,
			Text: fmt.Sprintf("server.tier is %s, but no mender.conf in the image names a DeviceTier", want),
			Hint: fmt.Sprintf("Its devices ask with tier standard, and stay pending: put \"DeviceTier\": %q into the image's mender.conf.", want),
		})
	}
	return concerns, nil
}

// warnOfTiers logs where image and setting disagree.
func (l *Lot) warnOfTiers(ctx context.Context) error {
	concerns, err := l.tierConcerns(ctx)
	for _, c := range concerns {
		l.Log.Warn(c.Text, "hint", c.Hint)
	}
	return err
}

// describeConcerns puts concerns behind each other, for a line of doctor.
func describeConcerns(concerns []mender.Concern) string {
	var b strings.Builder
	for _, c := range concerns {
		b.WriteString("; warning: " + c.Text)
	}
	return b.String()
}
