package station

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/hsm"
	"keymill/imaging"
	"keymill/pipeline"
)

// theDevice makes sure that exactly one device was meant, and that it has an image.
func theDevice(lot pipeline.Lot, value string, found []*pipeline.Record) (*pipeline.Record, error) {
	switch {
	case len(found) == 0:
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("lot %s has no device %q", lot.Name, value),
			"DEVICE is any of a device's identity values, or its serial."))
	case len(found) > 1:
		return nil, fault.As(fault.Usage, pipeline.WithHint(
			fmt.Errorf("%d devices of lot %s have the value %q (rows %d, %d ..)", len(found), lot.Name, value, found[0].Row, found[1].Row),
			"Name the device by a value that only it has."))
	}
	rec := found[0]
	if rec.Progress() == pipeline.Planned {
		return nil, fault.As(fault.Devices, pipeline.WithHint(fmt.Errorf("%s has no key yet, so there is no image (state %s)", rec.Identity, rec.State),
			"Run the lot first."))
	}
	return rec, nil
}

// OpenGolden opens the golden image of a lot and makes sure that it is the one.
func OpenGolden(ctx context.Context, cfg *config.Config, lot pipeline.Lot) (*imaging.Golden, error) {
	golden, err := imaging.OpenGolden(ctx, cfg.Image.Golden, imaging.GoldenOptions{
		CacheDir: goldenCache(cfg.Ledger), Partition: cfg.Image.Partition,
	})
	if err != nil {
		return nil, ImageFault(ctx, cfg.Image.Golden, err)
	}
	sum := golden.SHA256()
	if got := hex.EncodeToString(sum[:]); got != lot.GoldenSHA256 {
		return nil, errors.Join(fault.As(fault.Storage, pipeline.WithHint(
			fmt.Errorf("%s is not the golden image of lot %s: sha256 %s, want %s", cfg.Image.Golden, lot.Name, got, lot.GoldenSHA256),
			"Name the lot's golden image with --golden.")), golden.Close())
	}
	return golden, nil
}

// Kept lists what a device's image must not be written over.
func Kept(cfg *config.Config, lot pipeline.Lot, golden *imaging.Golden) []string {
	return []string{
		cfg.Image.Golden, golden.Path(), lot.GoldenPath, PackPath(lot), ImagesDir(lot), goldenCache(cfg.Ledger),
		cfg.Ledger, cfg.Ledger + "-wal", cfg.Ledger + "-shm", cfg.Audit.SigningKey, config.BesideLedger(cfg.Ledger, SigningKeyFile),
	}
}

// Image is a device's image, wherever it comes from.
type Image struct {
	golden  *imaging.Golden
	Overlay *imaging.Overlay // nil where a published image is shown
	image   io.Reader        // the published image, whole
	closers []io.Closer
}

// DeviceImage finds the image of a device: golden and its pack entry, or the
// file that was published.
func DeviceImage(ctx context.Context, golden *imaging.Golden, lot pipeline.Lot, rec *pipeline.Record) (*Image, error) {
	if lot.Format != config.FormatPack && rec.State == pipeline.Released {
		return publishedImage(ctx, golden, lot, rec)
	}
	pack, err := imaging.ReadPack(PackPath(lot))
	if err != nil {
		return nil, imageGone(lot, err)
	}
	defer pack.Close()
	key, overlay, err := pack.Read(imaging.Ref(rec.Pack))
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	if key != rec.Identity.Sum() {
		return nil, fault.StorageOutage(fmt.Errorf("the pack entry of %s belongs to another device", rec.Identity))
	}
	image, err := imaging.NewReader(golden, overlay)
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	if err := keyMatches(lot, rec, overlay.Template, image); err != nil {
		return nil, err
	}
	return &Image{golden: golden, Overlay: overlay}, nil
}

// publishedImage opens the file that was published for a device. What the
// format leaves to golden is put back.
func publishedImage(ctx context.Context, golden *imaging.Golden, lot pipeline.Lot, rec *pipeline.Record) (*Image, error) {
	dir := filepath.Join(lot.Out, "images")
	path := filepath.Join(dir, rec.Output.Name)
	if err := asRecorded(ctx, lot, rec, path); err != nil {
		return nil, err
	}
	if isCompressed(lot.Format) {
		return unpackedImage(golden, lot, path)
	}
	format, err := imaging.FindFormat(lot.Format)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	writer, err := format.Open(ctx, golden, dir)
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	view, err := writer.View(path)
	if err != nil {
		return nil, files.Closing(writer, imageGone(lot, err))
	}
	if err := keyMatches(lot, rec, recordedTemplate(lot, rec), view); err != nil {
		return nil, errors.Join(err, view.Close(), writer.Close())
	}
	return &Image{golden: golden, image: io.NewSectionReader(view, 0, golden.Size()), closers: []io.Closer{view, writer}}, nil
}

// recordedTemplate returns the template of a device's pack entry, nil where the pack
// doesn't tell.
func recordedTemplate(lot pipeline.Lot, rec *pipeline.Record) *imaging.Template {
	if rec.Pack.IsZero() {
		return nil
	}
	pack, err := imaging.ReadPack(PackPath(lot))
	if err != nil {
		return nil
	}
	defer pack.Close()
	t, err := pack.Template(imaging.Ref(rec.Pack))
	if err != nil {
		return nil
	}
	return t
}

func unpackedImage(golden *imaging.Golden, lot pipeline.Lot, path string) (*Image, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, imageGone(lot, err)
	}
	image, err := imaging.Decompress(file)
	if err != nil {
		return nil, files.Closing(file, fault.StorageOutage(err))
	}
	return &Image{golden: golden, image: image, closers: []io.Closer{image, file}}, nil
}

// Stream writes the whole image to w.
func (o *Image) Stream(ctx context.Context, w io.Writer) error {
	if o.Overlay == nil {
		_, err := io.Copy(w, o.image)
		return err
	}
	return imaging.Stream(ctx, o.golden, o.Overlay, w)
}

// Write publishes the image under a name of the user's, sparse and 0600.
func (o *Image) Write(ctx context.Context, path string) error {
	if o.Overlay != nil {
		_, err := imaging.WriteRaw(ctx, o.golden, o.Overlay, path)
		return err
	}
	return imaging.WriteSparse(ctx, path, o.image)
}

// firstOwn returns the first byte that is the device's own, 0 where that isn't known.
func (o *Image) firstOwn() int64 {
	if o.Overlay == nil || len(o.Overlay.Slots) == 0 {
		return 0
	}
	return o.Overlay.Slots[0].Offset
}

// keyMatches makes sure that an image holds the key that the ledger has for the
// device, where it holds one.
func keyMatches(lot pipeline.Lot, rec *pipeline.Record, t *imaging.Template, image io.ReaderAt) error {
	if t == nil || lot.Keys == pipeline.KeysInToken {
		return nil
	}
	found := false
	for i := range t.Slots {
		content, err := imaging.ReadContent(t, i, image)
		if err != nil {
			return fault.StorageOutage(fmt.Errorf("read %s back: %w", t.Slots[i].Path, err))
		}
		if bytes.Contains(content, []byte("PRIVATE KEY-----")) {
			found = true
			err = pipeline.MatchKey(content, rec.PublicKey)
		}
		clear(content)
		if err != nil {
			return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("the image of %s: %w", rec.Identity, err),
				"It is another device's image, or damaged: nothing was given out. `keymill retry %s --rekey DEVICE` gives the device a new key.", lot.Name))
		}
	}
	if !found && slices.Contains([]string{string(hsm.ModeSoftware), "hsm", "hsm-entropy"}, lot.Keys) {
		return fault.As(fault.Storage, fmt.Errorf("the image of %s holds no private key", rec.Identity))
	}
	return nil
}

// asRecorded compares a published file with the hash that was recorded for it.
func asRecorded(ctx context.Context, lot pipeline.Lot, rec *pipeline.Record, path string) error {
	sum, err := files.SHA256(ctx, path)
	if err != nil {
		return imageGone(lot, err)
	}
	if rec.Output.SHA256 != "" && sum != rec.Output.SHA256 {
		return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("%s is not the image that was published for %s: sha256 %s, recorded %s",
			path, rec.Identity, sum, rec.Output.SHA256),
			"It was changed or swapped: nothing was given out. Put the file back, or give the device a new key with `keymill retry %s --rekey DEVICE`.", lot.Name))
	}
	return nil
}

// Close gives the image up and wipes what it holds of the key.
func (o *Image) Close() error {
	if o.Overlay != nil {
		Wipe(o.Overlay)
	}
	var errs []error
	for _, c := range o.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// OpenImage opens an image that may hold a key. If it is compressed it is
// unpacked into a folder that goes when the image is closed: the cache of golden
// images is no place for keys.
func OpenImage(ctx context.Context, path, partition string) (*imaging.Golden, func(), error) {
	dir, err := os.MkdirTemp("", "keymill-image-*")
	if err != nil {
		return nil, nil, fault.StorageOutage(err)
	}
	golden, err := imaging.OpenGolden(ctx, path, imaging.GoldenOptions{CacheDir: dir, Partition: partition})
	if err != nil {
		return nil, nil, errors.Join(ImageFault(ctx, path, err), os.RemoveAll(dir))
	}
	return golden, func() {
		golden.Close()
		os.RemoveAll(dir)
	}, nil
}
