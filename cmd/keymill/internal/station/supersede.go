package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// destroySuperseded destroys the keys of devices that this lot took over after
// they had failed in another: nothing will ever be made of them.
func (l *Lot) destroySuperseded(ctx context.Context, run int64) error {
	packs := map[string]*imaging.Pack{}
	var errs []error
	for rec, err := range l.Ledger.SupersededKeys(ctx, l.Lot.Name) {
		if err == nil {
			err = l.destroyIn(ctx, packs, run, rec)
		}
		if err != nil {
			errs = append(errs, err)
			break
		}
	}
	for _, pack := range packs {
		if pack != nil {
			errs = append(errs, pack.Close())
		}
	}
	return errors.Join(errs...)
}

// destroyIn destroys a superseded key and records it: in this order, as a key
// that is destroyed already is no error, and one that is not must not be counted.
func (l *Lot) destroyIn(ctx context.Context, packs map[string]*imaging.Pack, run int64, rec *pipeline.Record) error {
	old, err := l.Ledger.Lot(ctx, rec.Lot)
	if err != nil {
		return err
	}
	pack, open := packs[rec.Lot]
	if !open {
		path := PackPath(old)
		pack, err = imaging.OpenPack(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.StorageOutage(fmt.Errorf("pack %s, which holds a key that must be destroyed: %w", path, err))
		}
		packs[rec.Lot] = pack
	}
	if pack != nil {
		if err := pack.Destroy(imaging.Ref(rec.Pack)); err != nil {
			return fault.StorageOutage(err)
		}
	}
	fate := pipeline.KeyDestroyed
	if old.Keys == pipeline.KeysInToken {
		fate = pipeline.KeyInToken // for `hsm gc`: the token may be another one now
	}
	changes := pipeline.Transitions{Ledger: l.Ledger, Station: l.Config.Audit.Station, Run: run}
	return changes.SupersededDestroyed(ctx, rec, fate)
}
