package pipeline

import (
	"context"
	"iter"
)

// Recovered counts what Recover found.
type Recovered struct {
	Kept      int // entries that the ledger vouches for
	Settled   int // leftover copies of keys whose images are out, destroyed now
	Destroyed int // keys that never reached the ledger, destroyed now
}

// Recover compares the pack with the ledger before a lot is resumed. Entries
// that no record claims are keys that a crash cut off between pack and ledger:
// nobody knows their public halves, so they are destroyed and counted. Those of
// superseded records are left to the lot that took the devices over. It
// reads both in the order of the pack, in bounded memory. settle says that the
// pack is not the product, so that entries of released devices must go.
func (l *Line) Recover(ctx context.Context, settle bool) (Recovered, error) {
	var found Recovered
	claims, stop := iter.Pull2(l.Ledger.Packed(ctx, l.Lot.Name, l.Station))
	defer stop()
	claim, err, more := claims()
	for entry, entryErr := range l.Images.Entries(ctx) {
		if entryErr != nil {
			return found, entryErr
		}
		for more && err == nil && claim.Ref.Offset < entry.Ref.Offset {
			claim, err, more = claims()
		}
		if more && err != nil {
			return found, storageOutage("ledger", err)
		}
		if entry.Destroyed {
			continue
		}
		claimed := more && claim.Ref == entry.Ref && claim.Identity == entry.Identity
		if err := l.recoverEntry(ctx, &found, entry, claimed, claimed && settle && claim.State == Released); err != nil {
			return found, err
		}
	}
	return found, nil
}

func (l *Line) recoverEntry(ctx context.Context, found *Recovered, entry PackEntry, claimed, settled bool) error {
	switch {
	case settled:
		found.Settled++
		return l.Images.Destroy(ctx, entry.Ref)
	case claimed:
		found.Kept++
		return nil
	}
	found.Destroyed++
	return l.destroyUnclaimed(ctx, entry)
}

// destroyUnclaimed counts the key before it destroys it: a crash between the
// two counts it twice on both sides, and the balance holds.
func (l *Line) destroyUnclaimed(ctx context.Context, entry PackEntry) error {
	rec, err := l.Ledger.Record(ctx, l.Lot.Name, entry.Identity)
	if err != nil {
		return storageOutage("ledger", err)
	}
	key := KeyDestroyed
	if l.Lot.Keys == KeysInToken {
		key = KeyInToken // what clears tokens up finds that nobody has it
	}
	if err := l.transitions().strayDestroyed(ctx, rec, key); err != nil {
		return err
	}
	return l.Images.Destroy(ctx, entry.Ref)
}
