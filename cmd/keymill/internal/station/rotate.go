package station

import (
	"context"
	"errors"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/reports"
)

// Rotate writes into the station log that the key at next signs from now on, with
// signatures of the old key and of it, and returns both keys' ids.
func (o *Options) Rotate(ctx context.Context, cfg *config.Config, next string) (ids [2]string, err error) {
	log := logs.New(cfg.Log, o.Hooks.LogTo)
	old, err := o.Signer(ctx, cfg, log)
	if err != nil {
		return ids, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	later := *cfg
	later.Audit.SigningKey = next
	key, err := o.Signer(ctx, &later, log)
	if err != nil {
		return ids, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	known, err := OpenLedger(ctx, cfg)
	if err != nil {
		return ids, err
	}
	defer func() { err = errors.Join(err, known.Close()) }()
	signing, err := old.Signing(cfg, known)
	if err != nil {
		return ids, err
	}
	if err := reports.SignStation(ctx, known, signing); err != nil {
		return ids, err
	}
	event, err := reports.RotateKey(cfg.Audit.Station, old.Signer, key.Signer, key.evidence())
	if err != nil {
		return ids, fault.As(fault.Usage, err)
	}
	if _, err := known.Append(ctx, event); err != nil {
		return ids, err
	}
	// The heads go on in the file beside the new key.
	before := signing.Heads
	if signing, err = key.Signing(&later, known); err != nil {
		return ids, err
	}
	if err := signing.Heads.Inherit(before); err != nil {
		return ids, fault.StorageOutage(err)
	}
	if err := reports.SignStation(ctx, known, signing); err != nil {
		return ids, err
	}
	for i, k := range []Signer{old, key} {
		if ids[i], err = reports.KeyID(k.Public()); err != nil {
			return ids, err
		}
	}
	return ids, nil
}
