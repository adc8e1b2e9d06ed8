package station

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// openProducts opens pack, format and folders of the lot for writing.
func (l *Lot) openProducts(ctx context.Context) error {
	if l.images.pack != nil {
		return nil
	}
	out := l.Out
	if err := files.MakeDirs(out); err != nil {
		return err
	}
	if l.keyless() {
		return nil
	}
	path := PackPath(l.Lot)
	if err := l.ownPlaces(out, path); err != nil {
		return err
	}
	if err := l.packStillThere(ctx, path); err != nil {
		return err
	}
	pack, err := openPack(path, l.images.golden)
	if err != nil {
		return err
	}
	l.images.pack, l.images.lot = pack, l.Lot
	if err := l.join(ctx, pack); err != nil {
		return err
	}
	if l.Format == config.FormatPack {
		return nil
	}
	l.images.dir = filepath.Join(out, "images")
	if err := files.MakeDirs(l.images.dir); err != nil {
		return err
	}
	// What a killed run was writing may hold a key.
	if _, err := imaging.RemoveLeftovers(l.images.dir); err != nil {
		return fault.StorageOutage(err)
	}
	if l.images.format, err = imaging.FindFormat(l.Format); err != nil {
		return fault.As(fault.Usage, err)
	}
	l.images.hasher = imaging.NewHasher(l.images.golden)
	l.images.writer, err = l.images.format.Open(ctx, l.images.golden, l.images.dir)
	if err != nil {
		return fault.StorageOutage(err)
	}
	return nil
}

// ownPlaces refuses places that other users made or may change: who can put a
// pack or a folder there reads the keys.
func (l *Lot) ownPlaces(out, pack string) error {
	for _, place := range []struct {
		path   string
		secret bool
	}{{out, false}, {pack, true}, {ImagesDir(l.Lot), false}, {goldenCache(l.Config.Ledger), false}, {l.Config.Audit.SigningKey, true}} {
		if place.path == "" || strings.Contains(place.path, ":") { // not set, or in an HSM token
			continue
		}
		if err := files.Own(place.path, place.secret); err != nil {
			return err
		}
	}
	if config.IsDatabaseURL(l.Config.Ledger) {
		return nil
	}
	return files.Own(l.Config.Ledger, false)
}

// join records that this station keeps a part of the lot, and in which pack.
func (l *Lot) join(ctx context.Context, pack *imaging.Pack) error {
	id := pack.UUID()
	part := ledger.LotStation{Lot: l.Name, Station: l.Config.Audit.Station, Out: l.Out, PackUUID: hex.EncodeToString(id[:])}
	join := l.Ledger.JoinLot
	if len(l.rekeying) > 0 { // the known pack may be gone
		join = l.Ledger.ReplacePack
	}
	err := join(ctx, part)
	switch {
	case errors.Is(err, ledger.ErrPackDiffers):
		return fault.StorageOutage(pipeline.WithHint(err,
			"Put the lot's own pack back at %s. Where the ledger is an older copy, `keymill ledger restore` finds out what belongs together.", PackPath(l.Lot)))
	case errors.Is(err, ledger.ErrOutTaken):
		return fault.As(fault.Usage, err)
	}
	return err
}

// packStillThere refuses to begin an empty pack where the ledger knows of keys
// that lie in a pack: somebody moved it, and with it the devices' only keys.
func (l *Lot) packStillThere(ctx context.Context, path string) error {
	if _, err := os.Stat(path); !l.resumed() || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for packed, err := range l.Ledger.Packed(ctx, l.Name, l.Config.Audit.Station) {
		if err != nil {
			return err
		}
		if packed.State == pipeline.Released && l.Format != config.FormatPack || l.rekeying[packed.Identity] {
			continue
		}
		return fault.StorageOutage(pipeline.WithHint(fmt.Errorf("the pack %s is gone, and keys of this lot lie only there", path),
			"Put the file back where it was and run the same command again. Where it can't be had back, "+
				"`keymill retry %s --rekey DEVICE,..` gives devices new keys, `keymill undo %s` takes the lot back.", l.Name, l.Name))
	}
	return nil
}

// PackPath is where a lot's pack lies.
func PackPath(lot pipeline.Lot) string { return filepath.Join(lot.Out, lot.Name+".pack") }

// ImagesDir is where a lot's published images lie.
func ImagesDir(lot pipeline.Lot) string { return filepath.Join(lot.Out, "images") }

// ProductsPath is where a lot's products lie.
func ProductsPath(lot pipeline.Lot) string {
	if lot.Format == config.FormatPack {
		return PackPath(lot)
	}
	return ImagesDir(lot)
}

// imageGone gives advice where a lot's images are not where they were left.
func imageGone(lot pipeline.Lot, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = pipeline.WithHint(err, "Put %s back as it was. If `keymill ledger prune` destroyed its images, they are gone for good.", lot.Out)
	}
	return fault.StorageOutage(err)
}
