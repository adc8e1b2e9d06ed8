package station

import (
	"context"
	"errors"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// Rekey sends devices back to the start of the line with the promise that their
// old keys come off the server before the new ones go on it. Each is named by an
// identity value or its serial. Whatever the new keys need is opened first, as
// the old ones cannot be had back.
func (l *Lot) Rekey(ctx context.Context, devices []string) error {
	records := make([]*pipeline.Record, 0, len(devices))
	for _, value := range devices {
		found, err := l.Ledger.Find(ctx, l.Name, value)
		if err != nil {
			return err
		}
		rec, err := theDevice(l.Lot, value, found)
		if err != nil {
			return err
		}
		records = append(records, rec)
	}
	if err := l.openServer(ctx, 0); err != nil {
		return err
	}
	if err := l.openProducts(ctx); err != nil {
		return err
	}
	token, err := l.openKept(ctx)
	if err != nil {
		return err
	}
	if token == nil { // else it is the keys' source, too, and opened by one at a time
		if err := l.openServices(ctx, 0); err != nil {
			return err
		}
	}
	for _, rec := range records {
		if err := l.rekeyOne(ctx, token, rec); err != nil {
			return errors.Join(err, token.Close())
		}
	}
	return token.Close() // before the keys' source opens it
}

func (l *Lot) rekeyOne(ctx context.Context, token *kept, rec *pipeline.Record) error {
	fate, err := token.destroy(ctx, rec)
	if err != nil {
		return err
	}
	if !rec.Pack.IsZero() {
		if err := l.images.pack.Destroy(imaging.Ref(rec.Pack)); err != nil {
			return fault.StorageOutage(err)
		}
	}
	gone, err := RemoveImage(ctx, l.Lot, rec, l.images.pack)
	if err != nil {
		return err
	}
	if !gone && l.Keys != pipeline.KeysInToken {
		fate = "" // the image is lost, and perhaps somewhere
	}
	changes := pipeline.Transitions{Ledger: l.Ledger, Station: l.Config.Audit.Station}
	return changes.Rekeyed(ctx, rec, "retry --rekey", fate)
}
