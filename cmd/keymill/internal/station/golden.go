package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/trace"
	"keymill/imaging"
	"keymill/pipeline"
)

// openGolden opens the golden image and what is injected into it. now is the
// time that files in the images get.
func (l *Lot) openGolden(ctx context.Context, now time.Time) (err error) {
	if l.keyless() {
		l.images = &lotImages{log: l.Log}
		return nil
	}
	ctx, ended := trace.Phase(ctx, "golden")
	defer func() { ended(&err) }()
	if l.Config.Image.Golden == "" {
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("no golden image is named"),
			"Give --golden FILE, or set image.golden in %s.", config.File))
	}
	render, err := pipeline.NewRenderer(l.Config.Image.Inject)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	want := pipeline.ContentPrivateKey
	if l.Config.Keys.Source == pipeline.KeysInToken {
		want = pipeline.ContentMenderConf
	}
	for _, content := range []string{pipeline.ContentPrivateKey, pipeline.ContentMenderConf} {
		if has := render.Index(content) >= 0; has != (content == want) {
			return fault.Usagef("with keys.source %s, image.inject must have one entry with `content: %s`, and none with another kind of key",
				l.Config.Keys.Source, want)
		}
	}
	if render.Index(pipeline.ContentOpenSSLConf) >= 0 && l.Config.Keys.Device.Module == "" {
		return fault.Usagef("image.inject has an entry with `content: %s`; name the PKCS#11 module on the device in keys.device.module", pipeline.ContentOpenSSLConf)
	}
	targets, err := targets(l.Config.Image.Inject, render)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	golden, err := imaging.OpenGolden(ctx, l.Config.Image.Golden, imaging.GoldenOptions{
		CacheDir: goldenCache(l.Config.Ledger), Partition: l.Config.Image.Partition,
	})
	if err != nil {
		return ImageFault(ctx, l.Config.Image.Golden, err)
	}
	l.images = &lotImages{golden: golden, render: render, log: l.Log}
	if name := l.Config.Image.Format; name != config.FormatPack {
		format, err := imaging.FindFormat(name)
		if err != nil {
			return fault.As(fault.Usage, err)
		}
		if err := format.Check(golden.Size()); err != nil {
			return ImageFault(ctx, l.Config.Image.Golden, err)
		}
	}
	plan, err := imaging.NewPlan(ctx, golden, targets, imaging.PlanOptions{Now: now})
	if err != nil {
		return ImageFault(ctx, l.Config.Image.Golden, err)
	}
	l.images.plan = plan
	view, err := l.dataView()
	if err == nil {
		l.Log.Info("the data partition", "number", view.Number, "because", view.Reason, "boot", view.Boot)
	}
	return nil
}

// DataView says which partition gets the files of /data, why, and whether a booted
// device would find its key there.
type DataView struct {
	Number int    `json:"number"`
	Reason string `json:"reason"`
	Boot   string `json:"boot"`
}

func (l *Lot) dataView() (DataView, error) {
	if l.images.golden == nil {
		return DataView{}, errGiven
	}
	data, err := l.images.golden.Data()
	if err != nil {
		return DataView{}, err
	}
	return DataView{data.Number, l.images.golden.DataReason(), l.images.plan.Boot().Text}, nil
}

// goldenCache lies beside the ledger: hashes and unpacked golden images.
func goldenCache(ledger string) string { return config.BesideLedger(ledger, ".keymill-cache") }

// ImageFault gives errors of the golden image their exit code.
func ImageFault(ctx context.Context, path string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if fault.Hint(err) == "" && errors.Is(err, fs.ErrPermission) {
		err = pipeline.WithHint(err, "Let keymill's user read %s, and write beside the ledger, where its hash and plan are kept.", path)
	}
	if fault.Hint(err) == "" {
		err = pipeline.WithHint(err, "Check the golden image with `keymill image inspect %s`.", path)
	}
	return fault.As(fault.Storage, fmt.Errorf("golden image: %w", err))
}

// targets says what the configuration puts into images in imaging's words.
func targets(list []pipeline.Inject, render *pipeline.Renderer) ([]imaging.Target, error) {
	var all []imaging.Target
	for i, inject := range list {
		target := imaging.Target{Path: inject.Path, UID: inject.UID, GID: inject.GID, Link: inject.Link, XAttrs: inject.XAttrs}
		switch {
		case inject.Directory:
			target.Kind = imaging.TargetDirectory
		case inject.Link != "":
			target.Kind = imaging.TargetSymlink
		case inject.File != "":
			target.Fixed = append([]byte{}, render.Fixed(i)...)
		}
		if inject.Mode != "" {
			mode, err := imaging.ParseMode(inject.Mode)
			if err != nil {
				return nil, fmt.Errorf("inject %s: %w", inject.Path, err)
			}
			target.Mode = mode
		}
		all = append(all, target)
	}
	return all, nil
}
