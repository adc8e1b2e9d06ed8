package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
)

// ProductsFound is what a comparison of a lot's products with its records came to.
type ProductsFound struct {
	Lot     string         `json:"lot"`
	Devices int            `json:"devices"` // that are released
	Gone    int            `json:"gone"`
	Wrong   int            `json:"wrong"`
	First   []ProductWrong `json:"first,omitempty"`
	OK      bool           `json:"ok"`
}

// ProductWrong is a device whose image is gone, or is not what was recorded.
type ProductWrong struct {
	Identity pipeline.Identity `json:"identity"`
	Row      int               `json:"row"`
	Reason   string            `json:"reason"`
}

// VerifyProducts compares what lies in the lot's folder with the records: of
// images the length and the hash, of pack entries the device and the key.
func (l *Lot) VerifyProducts(ctx context.Context) (ProductsFound, error) {
	found := ProductsFound{Lot: l.Name}
	look := l.lookImage
	if l.Format == config.FormatPack {
		pack, err := imaging.ReadPack(PackPath(l.Lot))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, imaging.ErrNotPack) && !errors.Is(err, imaging.ErrPackDamaged) {
			return found, fault.StorageOutage(err)
		}
		if err == nil {
			defer pack.Close()
			if err := l.openGolden(ctx, l.Created); err != nil {
				return found, err
			}
		}
		why := err
		look = func(_ context.Context, rec *pipeline.Record) error {
			if why != nil {
				return why
			}
			return l.lookEntry(pack, rec)
		}
	}
	for rec, err := range l.Ledger.Records(ctx, l.Name) {
		if err != nil {
			return found, err
		}
		if rec.State != pipeline.Released || rec.Superseded != "" {
			continue
		}
		found.Devices++
		err := look(ctx, rec)
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, imaging.ErrDestroyed):
			found.Gone++
		default:
			found.Wrong++
		}
		if len(found.First) < maxOff {
			found.First = append(found.First, ProductWrong{rec.Identity, rec.Row, err.Error()})
		}
	}
	found.OK = found.Gone+found.Wrong == 0
	return found, nil
}

func (l *Lot) lookImage(ctx context.Context, rec *pipeline.Record) error {
	path := filepath.Join(ImagesDir(l.Lot), rec.Output.Name)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() != rec.Output.Bytes {
		return fmt.Errorf("%s has %d bytes, %d were recorded", path, info.Size(), rec.Output.Bytes)
	}
	if rec.Output.SHA256 == "" {
		return nil
	}
	sum, err := files.SHA256(ctx, path)
	if err == nil && sum != rec.Output.SHA256 {
		err = fmt.Errorf("%s was changed: its sha256 is %s, %s was recorded", path, sum, rec.Output.SHA256)
	}
	return err
}

func (l *Lot) lookEntry(pack *imaging.PackReader, rec *pipeline.Record) error {
	key, overlay, err := pack.Read(imaging.Ref(rec.Pack))
	if err != nil {
		return err
	}
	defer Wipe(overlay)
	if key != rec.Identity.Sum() {
		return errors.New("its pack entry belongs to another device")
	}
	image, err := imaging.NewReader(l.images.golden, overlay)
	if err != nil {
		return err
	}
	private, err := l.images.keyIn(overlay, image)
	if err != nil || private == nil {
		return err
	}
	defer clear(private)
	return pipeline.MatchKey(private, rec.PublicKey)
}
