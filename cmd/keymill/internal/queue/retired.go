package queue

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// destroyOwn is what a station does that finds itself retired: it destroys the
// keys that it still has, but for those of devices that it released and that
// kept them.
func destroyOwn(ctx context.Context, known *ledger.Ledger, me string, log *slog.Logger) error {
	log.Warn("this station was retired; it destroys the keys that it still has", "station", me)
	lots, err := known.Lots(ctx)
	if err != nil {
		return err
	}
	for _, lot := range lots {
		parts, err := known.LotStations(ctx, lot.Name)
		if err != nil {
			return err
		}
		for _, part := range parts {
			if part.Station != me {
				continue
			}
			lot.Out = part.Out
			if err := destroyPart(ctx, known, lot, me, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// destroyPart destroys what a retired station has of one lot.
func destroyPart(ctx context.Context, known *ledger.Ledger, lot pipeline.Lot, me string, log *slog.Logger) error {
	pack, err := imaging.OpenPack(station.PackPath(lot))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.StorageOutage(err)
	}
	destroyed, kept, left := 0, 0, 0
	err = func() error {
		for entry, err := range pack.Entries(ctx) {
			if err != nil {
				return fault.StorageOutage(err)
			}
			rec, err := known.Record(ctx, lot.Name, entry.Key)
			if err != nil {
				return err
			}
			if rec.State == pipeline.Released && rec.PackStation == me && rec.Pack == pipeline.PackRef(entry.Ref) {
				kept++
				continue
			}
			if lot.Format != config.FormatPack && rec.PackStation != me {
				was := *rec // as this station left it
				was.State, was.Pack, was.Output = pipeline.Released, pipeline.PackRef(entry.Ref), pipeline.Output{}
				gone, err := station.RemoveImage(ctx, lot, &was, pack)
				if err != nil {
					return err
				}
				if !gone {
					left++
				}
			}
			if entry.Destroyed {
				continue
			}
			if err := pack.Destroy(entry.Ref); err != nil {
				return fault.StorageOutage(err)
			}
			destroyed++
		}
		return nil
	}()
	log.Warn("destroyed keys of a retired station", "lot", lot.Name, "destroyed", destroyed, "released_kept", kept, "not_overwritten", left)
	return files.Closing(pack, err)
}
