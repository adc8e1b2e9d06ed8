package station

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
)

// PublicKey returns the SPKI of the private key in a pack entry, nil where
// entries hold none.
func (l *lotImages) PublicKey(ctx context.Context, ref pipeline.PackRef) ([]byte, error) {
	if err := l.needGolden(ctx); err != nil {
		return nil, err
	}
	_, overlay, err := l.pack.Read(imaging.Ref(ref))
	if err != nil {
		return nil, fault.StorageOutage(fmt.Errorf("a pack entry that no device claims can't be read: %w", err))
	}
	defer Wipe(overlay)
	image, err := imaging.NewReader(l.golden, overlay)
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	private, err := l.keyIn(overlay, image)
	if err != nil || private == nil {
		return nil, err
	}
	defer clear(private)
	return pipeline.PublicOf(private)
}

// DestroyOutput destroys a published image: all of it is overwritten, as its
// template isn't known any more.
func (l *lotImages) DestroyOutput(ctx context.Context, name string) error {
	if l.writer == nil {
		return nil // the pack is the product
	}
	_, err := l.format.Destroy(ctx, filepath.Join(l.dir, name), nil)
	return fault.Disk(err)
}

// needGolden opens golden where it wasn't needed before.
func (l *lotImages) needGolden(ctx context.Context) error {
	if l.golden != nil || l.late == nil {
		return nil
	}
	return l.late(ctx)
}

// fileName is the name of a device's published image.
func (l *lotImages) fileName(id pipeline.Identity) string {
	return l.format.FileName(files.SafeName(id.Name()), l.lot.GoldenPath)
}

// publicIn returns the SPKI of the private key in a published image.
func (l *lotImages) publicIn(ctx context.Context, dev *pipeline.Device, algorithm, path string) ([]byte, error) {
	if err := l.needGolden(ctx); err != nil {
		return nil, err
	}
	contents, err := l.render.Render(dev, pipeline.KeyFiles{PrivateKey: make([]byte, pemBytes[algorithm])})
	if err != nil {
		return nil, err
	}
	lengths := make([]int64, len(contents))
	for i, content := range contents {
		lengths[i] = int64(len(content))
	}
	template, err := l.plan.Prepare(ctx, lengths)
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	if l.writer == nil {
		if l.writer, err = l.format.Open(ctx, l.golden, filepath.Dir(path)); err != nil {
			return nil, fault.StorageOutage(err)
		}
	}
	view, err := l.writer.View(path)
	if err != nil {
		return nil, fault.StorageOutage(fmt.Errorf("image %s: %w", path, err))
	}
	defer view.Close()
	private, err := imaging.ReadContent(template, l.render.Index(pipeline.ContentPrivateKey), view)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	return pipeline.PublicOf(private)
}

// foundImage is a published image whose key the device's record doesn't account for.
type foundImage struct {
	rec  *pipeline.Record
	path string
	spki []byte
	held bool // the server knows the key
}

// strangeImages returns the published images that the ledger has no release of:
// an interrupted run leaves such, with the keys of their records, and so does a
// ledger that was put back from a copy, whose records know other keys or none.
// since is the time from which on images of released devices are looked at, too;
// the zero time means never. same asks for images with their records' keys, too.
func (l *Lot) strangeImages(ctx context.Context, since time.Time, same bool) ([]foundImage, error) {
	if l.Format == config.FormatPack || l.Keys == pipeline.KeysInToken {
		return nil, nil
	}
	var found []foundImage
	for rec, err := range l.Ledger.Records(ctx, l.Name) {
		if err != nil {
			return nil, err
		}
		if rec.Superseded != "" || rec.State == pipeline.Released && since.IsZero() {
			continue
		}
		path := filepath.Join(ImagesDir(l.Lot), l.images.fileName(rec.Identity))
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.StorageOutage(err)
		}
		if !info.Mode().IsRegular() || rec.State == pipeline.Released && !info.ModTime().After(since) {
			continue
		}
		spki, err := l.images.publicIn(ctx, &rec.Device, l.Algorithm, path)
		if err != nil {
			if _, outage := errors.AsType[*pipeline.Outage](err); outage {
				return nil, err
			}
			continue // it holds no readable key: there is none to lose
		}
		known := bytes.Equal(spki, rec.PublicKey)
		if known && (!same || rec.State == pipeline.Released) || bytes.Equal(spki, rec.Replaces) || rec.Stale.Fingerprint == pipeline.Fingerprint(spki) {
			continue
		}
		found = append(found, foundImage{rec: rec, path: path, spki: spki})
	}
	return found, l.askImages(ctx, found)
}

func (l *Lot) askImages(ctx context.Context, found []foundImage) error {
	if len(found) == 0 {
		return nil
	}
	if err := l.openServer(ctx, 0); err != nil {
		return err
	}
	keys := make([]pipeline.HeldKey, len(found))
	for i, f := range found {
		keys[i] = pipeline.HeldKey{Identity: f.rec.Identity, SPKI: f.spki, DeviceID: f.rec.Auth.DeviceID}
	}
	held, err := l.Server.Holds(ctx, keys)
	for i, h := range held {
		found[i].held = h
	}
	return err
}

// imagesBehind stops a run that would write over keys which the server knows.
func (l *Lot) imagesBehind(ctx context.Context) error {
	found, err := l.strangeImages(ctx, time.Time{}, false)
	if err != nil {
		return err
	}
	behind := &pipeline.BehindError{Lot: l.Name, Images: true}
	for _, f := range found {
		if f.held {
			if behind.Keys++; behind.First == nil {
				behind.First = f.rec.Identity
			}
		}
	}
	if behind.Keys == 0 {
		return nil
	}
	return fault.As(fault.Storage, behind)
}

// freshOut refuses to plan a lot where a pack or images hold keys already: they
// are another lot's, or this one's of whom the ledger has forgotten.
func (l *Lot) freshOut(ctx context.Context, out string) error {
	lot := pipeline.Lot{Name: l.Name, Out: out}
	reader, err := imaging.ReadPack(PackPath(lot))
	entries := 0
	if err == nil {
		for entry, err := range reader.Entries(ctx) {
			if err != nil || !entry.Destroyed {
				entries++
			}
		}
		err = reader.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.StorageOutage(fmt.Errorf("pack %s: %w", PackPath(lot), err))
	}
	images, err := os.ReadDir(ImagesDir(lot))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.StorageOutage(err)
	}
	var what string
	switch {
	case entries > 0:
		what = fmt.Sprintf("pack %s holds %d keys", PackPath(lot), entries)
	case len(images) > 0:
		what = fmt.Sprintf("%s holds %d files", ImagesDir(lot), len(images))
	default:
		return nil
	}
	return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("lot %s is new to this ledger, but %s; nothing was changed", l.Name, what),
		"If the ledger was lost, put a copy back with `keymill ledger restore FILE`; where there is none, "+
			"`keymill ledger restore --manifest MANIFEST --lot %s` takes up what the server knows. Else give the lot another folder with --out.", l.Name))
}
