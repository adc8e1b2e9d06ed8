package main

import (
	"context"
	"errors"

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
		return packOutage(err)
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
			return packOutage(err)
		}
	}
	if err := removeImage(j.lot, rec); err != nil {
		return err
	}
	next := *rec
	// A key that the server never confirmed does not displace the one before
	// it, which may still be there.
	if rec.Auth.Status != "" || len(rec.Replaces) == 0 {
		next.Replaces = rec.PublicKey
	}
	next.State, next.Reason = pipeline.Planned, ""
	next.PublicKey, next.Algorithm = nil, ""
	next.Pack, next.Auth, next.Output = pipeline.PackRef{}, pipeline.AuthSet{}, pipeline.Output{}
	next.KeysDestroyed = next.KeysGenerated
	return j.ledger.Commit(ctx, pipeline.Change{From: rec.State, Record: &next, Event: pipeline.Event{
		Station: j.cfg.Audit.Station, Lot: rec.Lot, Action: pipeline.ActionRekey, Key: fate,
		Reason: "retry --rekey", Row: rec.Row, Device: rec.Identity, From: rec.State, To: pipeline.Planned,
		Attempt: rec.Attempts, SPKI: rec.Fingerprint(), Algorithm: rec.Algorithm,
	}})
}
