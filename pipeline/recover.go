package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
)

// Recovered counts what Recover found.
type Recovered struct {
	Kept      int // entries that the ledger vouches for
	Settled   int // leftover copies of keys whose images are out, destroyed now
	Destroyed int // keys that never reached the ledger nor the server, destroyed now
	Given     int // keys that devices had given up, destroyed now
}

// BehindError says that the ledger is behind the lot's pack or images: they hold
// keys that it doesn't know, and the server does. Nothing was changed.
type BehindError struct {
	Lot    string
	Keys   int      // that the server knows and the ledger doesn't
	First  Identity // one of their devices; nil where the ledger doesn't have it
	Images bool     // they lie in published images, not in the pack
}

func (e *BehindError) Error() string {
	where := "pack holds"
	if e.Images {
		where = "images hold"
	}
	first := ""
	if e.First != nil {
		first = fmt.Sprintf(", such as that of %s", e.First)
	}
	return fmt.Sprintf("the ledger is older than what lies here: lot %s's %s %d keys that it does not know, but the server does%s; nothing was changed",
		e.Lot, where, e.Keys, first)
}

// Hint says what to do.
func (e *BehindError) Hint() string {
	return "If an older copy of the ledger was put back, put the newer one back. Where there is none, " +
		"`keymill ledger restore FILE` takes the keys up that the server knows."
}

// Stray is a pack entry that no record claims.
type Stray struct {
	Entry  PackEntry
	Record *Record // of its identity; nil where the lot has no such device
	SPKI   []byte  // of the key in it; nil where it holds none
	Held   bool    // the server knows the key
}

// Recover compares the pack with the ledger before a lot is resumed. Entries
// that no record claims are keys that a crash cut off between pack and ledger, or
// such that the ledger has forgotten, as an older copy was put back. Only the
// server can tell: what it knows makes Recover stop with a *BehindError before
// anything is changed, the rest is destroyed and counted. Those of superseded
// records are left to the lot that took the devices over. settle says that the
// pack is not the product, so that entries of released devices must go.
func (l *Line) Recover(ctx context.Context, settle bool) (Recovered, error) {
	var found Recovered
	strays, copies, err := l.Strays(ctx, settle, &found)
	if err != nil {
		return found, err
	}
	if err := l.behind(strays); err != nil {
		return found, err
	}
	for rec, err := range l.Ledger.StaleKeys(ctx, l.Lot.Name) {
		if err != nil {
			return found, storageOutage("ledger", err)
		}
		if rec.PackStation != "" && rec.PackStation != l.Station {
			continue // its key lies there
		}
		if err := l.DestroyStale(ctx, rec); err != nil {
			return found, err
		}
		found.Given++
	}
	for _, ref := range copies {
		if err := l.Images.Destroy(ctx, ref); err != nil {
			return found, err
		}
		found.Settled++
	}
	for _, stray := range strays {
		if err := l.DestroyStray(ctx, stray); err != nil {
			return found, err
		}
		found.Destroyed++
	}
	return found, nil
}

// behind returns a *BehindError where the server knows any of the strays, or the
// ledger doesn't even know their devices.
func (l *Line) behind(strays []Stray) error {
	var e BehindError
	for _, s := range strays {
		if s.Held || s.Record == nil {
			if e.Keys++; s.Record != nil && e.First == nil {
				e.First = s.Record.Identity
			}
		}
	}
	if e.Keys == 0 {
		return nil
	}
	e.Lot = l.Lot.Name
	return &e
}

// Strays returns the pack entries that no record claims, each with what the
// server says of its key, and the copies of keys whose images are out. It
// changes nothing. It reads pack and ledger in the order of the pack, in memory
// that grows with what it finds only.
func (l *Line) Strays(ctx context.Context, settle bool, found *Recovered) (strays []Stray, copies []PackRef, err error) {
	claims := newClaims(l.Ledger.Packed(ctx, l.Lot.Name, l.Station))
	defer claims.stop()
	for entry, err := range l.Images.Entries(ctx) {
		if err != nil {
			return nil, nil, err
		}
		claim, claimed, err := claims.of(entry)
		if err != nil {
			return nil, nil, storageOutage("ledger", err)
		}
		switch {
		case entry.Destroyed:
		case claimed && settle && claim.State == Released:
			copies = append(copies, entry.Ref)
		case claimed:
			found.Kept++
		default:
			stray, known, err := l.stray(ctx, entry)
			if err != nil {
				return nil, nil, err
			}
			if known {
				found.Kept++
				continue
			}
			strays = append(strays, stray)
		}
	}
	return strays, copies, l.ask(ctx, strays)
}

// stray reads what an unclaimed entry holds. known says that the ledger accounts
// for it: it was given up, and will be destroyed as such.
func (l *Line) stray(ctx context.Context, entry PackEntry) (stray Stray, known bool, err error) {
	stray.Entry = entry
	if stray.Record, err = l.Ledger.Record(ctx, l.Lot.Name, entry.Identity); err != nil {
		if !errors.Is(err, ErrNoDevice) {
			return stray, false, storageOutage("ledger", err)
		}
		stray.Record = nil
		return stray, false, nil
	}
	if stray.Record.Stale.Pack == entry.Ref {
		return stray, true, nil
	}
	if l.Lot.Keys == KeysInToken {
		return stray, false, nil
	}
	stray.SPKI, err = l.Images.PublicKey(ctx, entry.Ref)
	return stray, false, err
}

// ask asks the server about the strays' keys. Keys that their records have given
// up for another need no asking: they come off the server with the next step.
func (l *Line) ask(ctx context.Context, strays []Stray) error {
	var keys []HeldKey
	var of []int
	for i, s := range strays {
		if s.Record == nil || len(s.SPKI) == 0 || bytes.Equal(s.SPKI, s.Record.Replaces) {
			continue
		}
		keys = append(keys, HeldKey{Identity: s.Record.Identity, SPKI: s.SPKI, DeviceID: s.Record.Auth.DeviceID})
		of = append(of, i)
	}
	if len(keys) == 0 {
		return nil
	}
	held, err := l.Server.Holds(ctx, keys)
	for i, h := range held {
		strays[of[i]].Held = h
	}
	return err
}

// DestroyStray counts a key that neither ledger nor server knows before it
// destroys it: a crash between the two counts it twice on both sides, and the
// balance holds.
func (l *Line) DestroyStray(ctx context.Context, stray Stray) error {
	key := KeyDestroyed
	if l.Lot.Keys == KeysInToken {
		key = KeyInToken // what clears tokens up finds that nobody has it
	}
	rec, err := l.Ledger.Record(ctx, l.Lot.Name, stray.Entry.Identity)
	if err != nil {
		return storageOutage("ledger", err)
	}
	if err := l.transitions().StrayDestroyed(ctx, rec, key, stray.SPKI); err != nil {
		return err
	}
	return l.Images.Destroy(ctx, stray.Entry.Ref)
}

// DestroyStale destroys the key that a device has given up, and records it.
func (l *Line) DestroyStale(ctx context.Context, rec *Record) error {
	if !rec.Stale.Pack.IsZero() {
		if err := l.Images.Destroy(ctx, rec.Stale.Pack); err != nil {
			return err
		}
	}
	if name := rec.Stale.Output; name != "" && rec.Output.Name != name {
		if err := l.Images.DestroyOutput(ctx, name); err != nil {
			return err
		}
	}
	key := KeyDestroyed
	if l.Lot.Keys == KeysInToken {
		key = KeyInToken
	}
	return l.transitions().StaleDestroyed(ctx, rec, key)
}

// claims goes through what the ledger believes to lie in a pack, in its order.
type claims struct {
	next func() (PackedRecord, error, bool)
	stop func()
	one  PackedRecord
	err  error
	more bool
}

func newClaims(packed iter.Seq2[PackedRecord, error]) *claims {
	c := &claims{}
	c.next, c.stop = iter.Pull2(packed)
	c.one, c.err, c.more = c.next()
	return c
}

// of returns the claim to an entry. Several records may claim one offset, where a
// pack was cut off and grew again: each is looked at.
func (c *claims) of(entry PackEntry) (claim PackedRecord, claimed bool, err error) {
	for c.more && c.err == nil && c.one.Ref.Offset < entry.Ref.Offset {
		c.one, c.err, c.more = c.next()
	}
	for c.more && c.err == nil && c.one.Ref.Offset == entry.Ref.Offset {
		if c.one.Ref == entry.Ref && c.one.Identity == entry.Identity {
			claim, claimed = c.one, true
		}
		c.one, c.err, c.more = c.next()
	}
	if c.more {
		err = c.err
	}
	return claim, claimed, err
}
