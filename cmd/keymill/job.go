package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/trace"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender"
)

// job is a lot being worked on at this station: configuration, ledger and
// everything that carries its devices. Close gives all of it up.
type job struct {
	app    *app
	cfg    *config.Config
	log    *slog.Logger
	ledger *ledger.Ledger
	lot    pipeline.Lot
	images *lotImages
	keys   keySource
	server *mender.Client
	signer stationSigner // vouches for the evidence; opened when it is needed
}

func (j *job) Close() error {
	var errs []error
	if j.images != nil {
		errs = append(errs, j.images.Close())
	}
	if j.keys != nil {
		errs = append(errs, j.keys.Close())
	}
	if j.server != nil {
		j.server.Close()
	}
	errs = append(errs, j.signer.Close())
	if j.ledger != nil {
		errs = append(errs, j.ledger.Close())
	}
	return errors.Join(errs...)
}

// openSigner opens the station's signing key. It is done early: a PIN is asked
// for while somebody is there.
func (j *job) openSigner(ctx context.Context) (err error) {
	if j.signer.Signer == nil {
		j.signer, err = j.app.signer(ctx, j.cfg, j.log)
	}
	return err
}

// openGolden opens the golden image and what is injected into it. now is the
// time that files in the images get.
func (j *job) openGolden(ctx context.Context, now time.Time) (err error) {
	ctx, ended := trace.Phase(ctx, "golden")
	defer func() { ended(&err) }()
	if j.cfg.Image.Golden == "" {
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("no golden image is named"),
			"Give --golden FILE, or set image.golden in %s.", config.File))
	}
	render, err := pipeline.NewRenderer(j.cfg.Image.Inject)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	want := pipeline.ContentPrivateKey
	if j.cfg.Keys.Source == pipeline.KeysInToken {
		want = pipeline.ContentMenderConf
	}
	for _, content := range []string{pipeline.ContentPrivateKey, pipeline.ContentMenderConf} {
		if has := render.Index(content) >= 0; has != (content == want) {
			return fault.Usagef("with keys.source %s, image.inject must have one entry with `content: %s`, and none with another kind of key",
				j.cfg.Keys.Source, want)
		}
	}
	if render.Index(pipeline.ContentOpenSSLConf) >= 0 && j.cfg.Keys.Device.Module == "" {
		return fault.Usagef("image.inject has an entry with `content: %s`; name the PKCS#11 module on the device in keys.device.module", pipeline.ContentOpenSSLConf)
	}
	targets, err := targets(j.cfg.Image.Inject, render)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	golden, err := imaging.OpenGolden(ctx, j.cfg.Image.Golden, imaging.GoldenOptions{
		CacheDir: goldenCache(j.cfg.Ledger), Partition: j.cfg.Image.Partition,
	})
	if err != nil {
		return imageFault(ctx, j.cfg.Image.Golden, err)
	}
	j.images = &lotImages{golden: golden, render: render, log: j.log}
	plan, err := imaging.NewPlan(ctx, golden, targets, imaging.PlanOptions{Now: now})
	if err != nil {
		return imageFault(ctx, j.cfg.Image.Golden, err)
	}
	j.images.plan = plan
	return nil
}

// goldenCache lies beside the ledger: hashes and unpacked golden images.
func goldenCache(ledger string) string { return config.BesideLedger(ledger, ".keymill-cache") }

// imageFault gives errors of the golden image their exit code.
func imageFault(ctx context.Context, path string, err error) error {
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

// describeLot is the lot that the configuration asks for.
func (j *job) describeLot(name, manifest, manifestSHA256 string, devices int) (pipeline.Lot, error) {
	out, err := j.cfg.OutDir(name)
	if err != nil {
		return pipeline.Lot{}, err
	}
	goldenPath, err := filepath.Abs(j.cfg.Image.Golden)
	if err != nil {
		return pipeline.Lot{}, err
	}
	sum := j.images.golden.SHA256()
	return pipeline.Lot{
		Name: name, ManifestPath: manifest, ManifestSHA256: manifestSHA256, Devices: devices,
		GoldenPath: goldenPath, GoldenSHA256: hex.EncodeToString(sum[:]), GoldenBytes: j.images.golden.Size(),
		InjectSHA256: j.images.render.Sum(), Format: j.cfg.Image.Format,
		Keys: j.cfg.Keys.Source, Algorithm: j.cfg.Keys.Algorithm, Server: j.cfg.Server.Identity(),
		Out: out, Station: j.cfg.Audit.Station,
	}, nil
}

// sameLot refuses to go on with a lot under other settings than it was planned
// with, and says what differs.
func sameLot(planned, asked pipeline.Lot) error {
	differ := []struct {
		what, was, is string
		kind          fault.Kind
	}{
		{"manifest (sha256)", planned.ManifestSHA256, asked.ManifestSHA256, fault.Manifest},
		{"golden image (sha256)", planned.GoldenSHA256, asked.GoldenSHA256, fault.Storage},
		{"injected files (sha256)", planned.InjectSHA256, asked.InjectSHA256, fault.Usage},
		{"format", planned.Format, asked.Format, fault.Usage},
		{"source of keys", planned.Keys, asked.Keys, fault.Usage},
		{"algorithm", planned.Algorithm, asked.Algorithm, fault.Usage},
		{"server", planned.Server, asked.Server, fault.Usage},
		{"output folder", planned.Out, asked.Out, fault.Usage},
	}
	kind, lines := fault.None, []string(nil)
	for _, d := range differ {
		if d.was != d.is {
			kind = cmp.Or(kind, d.kind)
			lines = append(lines, fmt.Sprintf("%s was %s, is %s", d.what, d.was, d.is))
		}
	}
	if lines == nil {
		return nil
	}
	return fault.As(kind, pipeline.WithHint(
		fmt.Errorf("lot %s was planned otherwise: %s", planned.Name, strings.Join(lines, "; ")),
		"Nothing was changed. Use what the lot was planned with, or another name: --lot, or in a drop folder the manifest's."))
}

// openProducts opens pack, format and folders of the lot for writing.
func (j *job) openProducts(ctx context.Context, resumed bool) error {
	out := j.lot.Out
	if err := files.MakeDirs(out); err != nil {
		return err
	}
	path := packPath(j.lot)
	if err := j.packStillThere(ctx, path, resumed); err != nil {
		return err
	}
	pack, err := openPack(path, j.images.golden)
	if err != nil {
		return err
	}
	j.images.pack = pack
	j.images.finder = finderOf(j.keys, j.cfg.Keys.Device)
	if j.lot.Format == config.FormatPack {
		return nil
	}
	j.images.dir = filepath.Join(out, "images")
	if err := files.MakeDirs(j.images.dir); err != nil {
		return err
	}
	// What a killed run was writing may hold a key.
	if _, err := imaging.RemoveLeftovers(j.images.dir); err != nil {
		return fault.StorageOutage(err)
	}
	if j.images.format, err = imaging.FindFormat(j.lot.Format); err != nil {
		return fault.As(fault.Usage, err)
	}
	j.images.hasher = imaging.NewHasher(j.images.golden)
	j.images.writer, err = j.images.format.Open(ctx, j.images.golden, j.images.dir)
	if err != nil {
		return fault.StorageOutage(err)
	}
	return nil
}

// packStillThere refuses to begin an empty pack where the ledger knows of keys
// that lie in a pack: somebody moved it, and with it the devices' only keys.
func (j *job) packStillThere(ctx context.Context, path string, resumed bool) error {
	if _, err := os.Stat(path); !resumed || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for packed, err := range j.ledger.Packed(ctx, j.lot.Name) {
		if err != nil {
			return err
		}
		if packed.State == pipeline.Released && j.lot.Format != config.FormatPack {
			continue
		}
		return fault.StorageOutage(pipeline.WithHint(fmt.Errorf("the pack %s is gone, and keys of this lot lie only there", path),
			"Put the file back where it was and run the same command again."))
	}
	return nil
}
