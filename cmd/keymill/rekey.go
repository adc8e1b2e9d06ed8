package main

import (
	"context"
	"errors"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// rekey sends devices back to the start of the line with the promise that their
// old keys come off the server before the new ones go on it.
func (j *job) rekey(ctx context.Context, devices []string) error {
	records := make([]*pipeline.Record, 0, len(devices))
	for _, value := range devices {
		found, err := j.ledger.Find(ctx, j.lot.Name, value)
		if err != nil {
			return err
		}
		rec, err := theDevice(j.lot, value, found)
		if err != nil {
			return err
		}
		records = append(records, rec)
	}
	pack, err := imaging.OpenPack(packPath(j.lot))
	if err != nil {
		return fault.StorageOutage(err)
	}
	defer pack.Close()
	token, err := j.openKept(ctx)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if err := j.rekeyOne(ctx, pack, token, rec); err != nil {
			return errors.Join(err, token.Close())
		}
	}
	return token.Close() // before the keys' source opens it
}

func (j *job) rekeyOne(ctx context.Context, pack *imaging.Pack, token *kept, rec *pipeline.Record) error {
	fate, err := token.destroy(ctx, rec)
	if err != nil {
		return err
	}
	if !rec.Pack.IsZero() {
		if err := pack.Destroy(imaging.Ref(rec.Pack)); err != nil {
			return fault.StorageOutage(err)
		}
	}
	if err := removeImage(j.lot, rec); err != nil {
		return err
	}
	changes := pipeline.Transitions{Ledger: j.ledger, Station: j.cfg.Audit.Station}
	return changes.Rekeyed(ctx, rec, "retry --rekey", fate)
}
