package station

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// Rekey sends devices back to the start of the line with the promise that their
// old keys come off the server before the new ones go on it. Each is named by an
// identity value or its serial. Whatever the new keys need is opened first, as
// the old ones cannot be had back; then the ledger says what is given up, and
// only then anything is destroyed. It works also where the lot's pack is gone.
func (l *Lot) Rekey(ctx context.Context, devices []string) error {
	_, err := l.rekey(ctx, devices, func(changes *pipeline.Transitions, rec *pipeline.Record) error {
		return changes.Rekeyed(ctx, rec, "retry --rekey")
	})
	return err
}

// giveUp records that a device gives its key up, and why.
type giveUp func(changes *pipeline.Transitions, rec *pipeline.Record) error

// rekey is Rekey; it returns the devices' records.
func (l *Lot) rekey(ctx context.Context, devices []string, giveUp giveUp) ([]*pipeline.Record, error) {
	if l.Keys == pipeline.KeysInManifest || l.Keys == pipeline.KeysInFiles {
		return nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("this lot's keys were given: there is nothing to make new ones from"),
			"Undo the device's lot, and plan another one with the new keys."))
	}
	records := make([]*pipeline.Record, 0, len(devices))
	for _, value := range devices {
		found, err := l.Ledger.Find(ctx, l.Name, value)
		if err != nil {
			return nil, err
		}
		rec, err := theDevice(l.Lot, value, found)
		if err != nil {
			return nil, err
		}
		records = append(records, rec)
	}
	if err := l.openServer(ctx, 0); err != nil {
		return nil, err
	}
	lost, err := l.openForRekey(ctx, records)
	if err != nil {
		return nil, err
	}
	token, err := l.openKept(ctx)
	if err != nil {
		return nil, err
	}
	if token == nil { // else it is the keys' source, too, and opened by one at a time
		if err := l.openServices(ctx, 0); err != nil {
			return nil, err
		}
	}
	for _, rec := range records {
		if err := l.rekeyOne(ctx, token, rec, lost, giveUp); err != nil {
			return nil, errors.Join(err, token.Close())
		}
	}
	return records, token.Close() // before the keys' source opens it
}

// openForRekey opens the lot's products. lost says that the pack is gone, and
// with it the keys in it.
func (l *Lot) openForRekey(ctx context.Context, records []*pipeline.Record) (lost bool, err error) {
	l.rekeying = map[pipeline.IdentitySum]bool{}
	for _, rec := range records {
		l.rekeying[rec.Identity.Sum()] = true
	}
	_, err = os.Stat(PackPath(l.Lot))
	lost = errors.Is(err, fs.ErrNotExist)
	return lost, l.openProducts(ctx)
}

func (l *Lot) rekeyOne(ctx context.Context, token *kept, rec *pipeline.Record, lost bool, giveUp giveUp) error {
	changes := pipeline.Transitions{Ledger: l.Ledger, Station: l.Config.Audit.Station}
	if !rec.Stale.IsZero() { // an interrupted rekeying's
		if err := l.destroyGiven(ctx, &changes, token, rec, givenUp(rec), lost); err != nil {
			return err
		}
	}
	// The server may hold a key that it never confirmed, beside the promise to
	// remove the one before: it can only be told to remove one later.
	if rec.Auth.Status == "" && len(rec.Replaces) > 0 && len(rec.PublicKey) > 0 {
		expected := mender.Expected{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}
		if _, err := l.Server.RemoveKey(ctx, expected); err != nil {
			return err
		}
	}
	before := *rec
	if err := giveUp(&changes, rec); err != nil {
		return err
	}
	return l.destroyGiven(ctx, &changes, token, rec, before, lost)
}

// givenUp is what is left to know of a record before it gave its key up.
func givenUp(rec *pipeline.Record) pipeline.Record {
	given := *rec
	given.Pack, given.Output, given.PublicKey = rec.Stale.Pack, pipeline.Output{Name: rec.Stale.Output}, rec.Replaces
	return given
}

// destroyGiven destroys the key that a device has given up, wherever it lies, and
// records what became of it. given is the record before.
func (l *Lot) destroyGiven(ctx context.Context, changes *pipeline.Transitions, token *kept, rec *pipeline.Record, given pipeline.Record, lost bool) error {
	fate, err := token.destroy(ctx, &given)
	if err != nil {
		return err
	}
	if !rec.Stale.Pack.IsZero() {
		if lost && rec.Stale.Output == "" { // else the image has it
			fate = ""
		} else if lost {
			l.Log.Debug("the pack is gone; the old key lies in the image", "device", rec.Identity.Name())
		} else if fate, err = l.destroyEntry(rec, fate); err != nil {
			return err
		}
	}
	gone, err := RemoveImage(ctx, l.Lot, &given, l.images.pack)
	if err != nil {
		return err
	}
	if !gone && l.Keys != pipeline.KeysInToken {
		fate = "" // the image is lost, and perhaps somewhere
	}
	if err := changes.StaleDestroyed(ctx, rec, fate); err != nil {
		return err
	}
	rec.Inventory, rec.InventoryReason = "", "" // the server will know it under another id
	return l.Ledger.SetInventories(ctx, l.Name, []*pipeline.Record{rec})
}

// destroyEntry destroys a pack entry. One that is damaged or not there is said
// to be not found.
func (l *Lot) destroyEntry(rec *pipeline.Record, fate string) (string, error) {
	err := fault.Disk(l.images.pack.Destroy(imaging.Ref(rec.Stale.Pack)))
	if err == nil {
		return fate, nil
	}
	if _, outage := errors.AsType[*pipeline.Outage](err); outage {
		return "", err
	}
	l.Log.Warn("the device's old key was not found in the pack", "device", rec.Identity.Name(), "row", rec.Row, "reason", err)
	return "", nil
}
