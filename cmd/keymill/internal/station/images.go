package station

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"path/filepath"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
)

// lotImages joins the lot's plan, pack and format into what the pipeline needs.
type lotImages struct {
	golden *imaging.Golden
	plan   *imaging.Plan
	render *pipeline.Renderer
	log    *slog.Logger
	pack   *imaging.Pack
	finder *keyFinder // nil where keys go into the images
	lot    pipeline.Lot
	late   func(context.Context) error // opens golden, where that is done only if it is needed; else nil
	// authority is nil where devices get no certificates.
	authority *authority

	format imaging.Format // zero for packs
	writer imaging.Writer // nil for packs
	hasher *imaging.Hasher
	dir    string // of single images
}

var _ pipeline.Images = (*lotImages)(nil)

func (l *lotImages) Stage(ctx context.Context, dev *pipeline.Device, private, public []byte) (pipeline.PackRef, error) {
	if l.golden == nil { // the device has its key, and gets no image
		return pipeline.PackRef{}, nil
	}
	key := pipeline.KeyFiles{PrivateKey: private}
	if l.finder != nil {
		var err error
		if key, err = l.finder.files(public); err != nil {
			return pipeline.PackRef{}, err
		}
	}
	if l.authority != nil {
		made, err := l.authority.certify(dev, public)
		if err != nil {
			return pipeline.PackRef{}, err
		}
		key.Certificate, key.Chain = made.PEM(), l.authority.Chain(made)
	}
	contents, err := l.render.Render(dev, key)
	if err != nil {
		return pipeline.PackRef{}, err
	}
	overlay, err := l.plan.Overlay(ctx, contents)
	if err != nil {
		return pipeline.PackRef{}, fault.Disk(err)
	}
	defer Wipe(overlay)
	ref, err := l.pack.Append(ctx, dev.Identity.Sum(), overlay)
	if err != nil && ctx.Err() == nil {
		err = fault.StorageOutage(err)
	}
	return pipeline.PackRef(ref), err
}

// CertifiedAs implements pipeline.Certifier.
func (l *lotImages) CertifiedAs(public []byte) pipeline.Certificate {
	if l.authority == nil {
		return pipeline.Certificate{}
	}
	return l.authority.certifiedAs(public)
}

func (l *lotImages) Release(ctx context.Context, rec *pipeline.Record) (pipeline.Output, []byte, error) {
	if l.golden == nil {
		return pipeline.Output{}, nil, nil
	}
	overlay, err := l.overlay(rec)
	if err != nil {
		return pipeline.Output{}, nil, err
	}
	defer Wipe(overlay)
	if l.writer == nil {
		image, err := imaging.NewReader(l.golden, overlay)
		if err != nil {
			return pipeline.Output{}, nil, fault.StorageOutage(err)
		}
		private, err := l.keyIn(overlay, image)
		return pipeline.Output{Bytes: rec.Pack.Length}, private, err
	}
	name := l.format.FileName(files.SafeName(rec.Identity.Name()), l.golden.Path())
	path := filepath.Join(l.dir, name)
	result, err := l.writer.Write(ctx, overlay, path)
	if err != nil {
		return pipeline.Output{}, nil, fault.Disk(err)
	}
	view, err := l.writer.View(path)
	if err != nil {
		return pipeline.Output{}, nil, fault.Disk(err)
	}
	defer view.Close()
	out := pipeline.Output{Name: name, Bytes: result.Bytes}
	if out.SHA256, err = l.outputSHA256(ctx, overlay, path); err != nil {
		return out, nil, fault.Disk(err)
	}
	private, err := l.keyIn(overlay, view)
	return out, private, err
}

// outputSHA256 is the hash of a published file. That of a raw image is resumed
// from the state behind what all devices share; other files are small, or must
// be read as they are.
func (l *lotImages) outputSHA256(ctx context.Context, overlay *imaging.Overlay, path string) (string, error) {
	if l.format.Name != "raw" {
		return files.SHA256(ctx, path)
	}
	sum, err := l.hasher.Sum(ctx, overlay)
	return hex.EncodeToString(sum[:]), err
}

// overlay reads a record's pack entry and makes sure that it is the device's.
func (l *lotImages) overlay(rec *pipeline.Record) (*imaging.Overlay, error) {
	key, overlay, err := l.pack.Read(imaging.Ref(rec.Pack))
	if err != nil {
		return nil, lostOverlay(fault.Disk(err))
	}
	if key != rec.Identity.Sum() {
		return nil, lostOverlay(errors.New("the pack entry belongs to another device"))
	}
	return overlay, nil
}

// lostOverlay gives advice where a device's key is gone for good.
func lostOverlay(err error) error {
	if _, ok := errors.AsType[*pipeline.Outage](err); ok {
		return err
	}
	return pipeline.WithHint(fmt.Errorf("the device's overlay cannot be read back: %w", err),
		"Its key is lost; `keymill retry LOT --rekey DEVICE` gives the device a new one.")
}

// keyIn reads the private key back from an image; nil where images hold none.
func (l *lotImages) keyIn(overlay *imaging.Overlay, image io.ReaderAt) ([]byte, error) {
	index := l.render.Index(pipeline.ContentPrivateKey)
	if index < 0 {
		return nil, nil
	}
	return imaging.ReadContent(overlay.Template, index, image)
}

func (l *lotImages) Settle(ctx context.Context, rec *pipeline.Record) error {
	if l.writer == nil {
		return nil // the pack is the product
	}
	return l.Destroy(ctx, rec.Pack)
}

func (l *lotImages) Destroy(_ context.Context, ref pipeline.PackRef) error {
	return fault.Disk(l.pack.Destroy(imaging.Ref(ref)))
}

func (l *lotImages) Entries(ctx context.Context) iter.Seq2[pipeline.PackEntry, error] {
	return func(yield func(pipeline.PackEntry, error) bool) {
		if l.pack == nil {
			return
		}
		for entry, err := range l.pack.Entries(ctx) {
			if errors.Is(err, imaging.ErrPackDamaged) {
				// Devices whose overlays lie there fail one by one when they are
				// read; the others need not wait for them.
				l.log.Error("the pack is damaged", "reason", err)
				continue
			}
			if err != nil {
				err = fault.StorageOutage(err)
			}
			if !yield(pipeline.PackEntry{Identity: entry.Key, Ref: pipeline.PackRef(entry.Ref), Destroyed: entry.Destroyed}, err) {
				return
			}
		}
	}
}

func (l *lotImages) Close() error {
	var errs []error
	if l.writer != nil {
		errs = append(errs, l.writer.Close())
	}
	if l.plan != nil {
		errs = append(errs, l.plan.Close())
	}
	if l.pack != nil {
		errs = append(errs, l.pack.Close())
	}
	if l.golden != nil {
		errs = append(errs, l.golden.Close())
	}
	return errors.Join(errs...)
}

// Wipe overwrites a device's own bytes: the key is among them.
func Wipe(o *imaging.Overlay) {
	for _, slot := range o.Slots {
		clear(slot.Data)
	}
}

// openPack opens the lot's pack, or makes it for a lot that has none yet.
func openPack(path string, golden *imaging.Golden) (*imaging.Pack, error) {
	pack, err := imaging.OpenPack(path)
	if errors.Is(err, fs.ErrNotExist) {
		pack, err = imaging.CreatePack(path, golden.SHA256(), golden.Size())
	}
	if err != nil {
		return nil, fault.StorageOutage(fmt.Errorf("pack %s: %w", path, err))
	}
	if sum, _ := pack.Golden(); sum != golden.SHA256() {
		return nil, errors.Join(fault.StorageOutage(fmt.Errorf("pack %s belongs to another golden image", path)), pack.Close())
	}
	return pack, nil
}
