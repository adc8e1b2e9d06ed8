package pipeline

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"
)

// stage makes a key, makes it durable in the pack, and only then records it. A
// crash before the pack has it loses a key that nobody knows; a crash between
// pack and ledger leaves an entry that Recover destroys. own becomes the key, where
// this machine made it.
func (l *Line) stage(r *reins, rec *Record, own *ownKey) error {
	private, public, algorithm, err := l.generate(r, rec)
	if err != nil {
		return err
	}
	defer clear(private)
	if err := l.made.add(public); err != nil {
		if l.given() != nil {
			err = &KeyFlaw{"another device of this lot has the same key", "Each device needs a key of its own: clones can't be told apart."}
		}
		return err
	}
	if l.given() == nil && l.Keys.AtOnce() == 0 {
		own.make(private, public)
	}
	ref, err := l.Images.Stage(r.hard, &rec.Device, private, public)
	if err != nil {
		return err
	}
	where := KeyInPack
	switch l.Lot.Keys {
	case KeysInToken:
		where = KeyInToken
	case KeysInManifest:
		where = KeyInDevice
	}
	// Where the commit's fate is unknown, or another worker had the record, the
	// entry stays in the pack: the next start compares pack and ledger.
	made := Made{SPKI: public, Algorithm: algorithm}
	if maker, ok := l.Keys.(KeyMaker); ok {
		made.HSM = maker.MadeBy(public)
	}
	if certifier, ok := l.Images.(Certifier); ok {
		made.Cert = certifier.CertifiedAs(public)
	}
	return l.transitions().staged(r.hard, rec, where, made, ref)
}

// madeKeys remembers the public keys that a run has made, 16 bytes of each hash.
type madeKeys struct {
	mu   sync.Mutex
	seen map[[16]byte]struct{} // guarded by mu
}

// add fails when a key was made before in this run: then its source is broken,
// and no further key of it may be used.
func (m *madeKeys) add(spki []byte) error {
	sum := sha256.Sum256(spki)
	short := [16]byte(sum[:16])
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, twice := m.seen[short]; twice {
		return &Outage{Part: PartHSM, Err: errors.New("the source of keys made the same key twice: its random numbers are broken"),
			Hint: "Do not ship this lot. Look at the token or the machine, then undo the lot; `keymill audit keys` lists keys that devices share."}
	}
	if m.seen == nil {
		m.seen = map[[16]byte]struct{}{}
	}
	m.seen[short] = struct{}{}
	return nil
}

// given returns the source of keys that exist already, nil where keys are made.
func (l *Line) given() GivenKeys {
	given, _ := l.Keys.(GivenKeys)
	return given
}

func (l *Line) generate(r *reins, rec *Record) (private, public []byte, algorithm string, err error) {
	if err := acquire(r, l.making); err != nil {
		return nil, nil, "", err
	}
	defer l.making.Release(1)
	if given := l.given(); given != nil {
		return given.For(r.hard, &rec.Device)
	}
	private, public, err = l.Keys.Generate(r.hard, rec.Identity.Name())
	return private, public, l.Lot.Algorithm, err
}

// preauthorize tells the server the public key and records what it said.
func (l *Line) preauthorize(r *reins, rec *Record) error {
	auth, err := l.Server.Preauthorize(r.hard, Preauth{
		Identity: rec.Identity, SPKI: rec.PublicKey, Replaces: rec.Replaces, Policy: l.Policy,
	})
	if err != nil {
		return err
	}
	return l.transitions().preauthorized(r.hard, rec, auth)
}

// release publishes the image, reads it back and records it. The record says
// released only if the image's key is the one that was preauthorized. own is the
// key that this worker staged for the device, zero where it staged none.
func (l *Line) release(r *reins, rec *Record, own *ownKey) error {
	out, private, err := l.publish(r, rec)
	if err != nil {
		return err
	}
	defer clear(private)
	where, readBack := KeyInImage, "match"
	if l.Lot.Keys == KeysInToken {
		where, readBack = KeyInToken, ""
	} else if l.Lot.Keys == KeysInManifest { // there is no image
		where, readBack = KeyInDevice, ""
	} else if !own.is(private, rec.PublicKey) {
		err = l.compare(r, private, rec.PublicKey)
	}
	if err != nil {
		return err
	}
	if err := l.transitions().released(r.hard, rec, out, where, readBack); err != nil {
		return err
	}
	// The device is released whatever happens here: what Settle leaves behind,
	// Recover finds. But a disk that fails now fails the next device too.
	if err := l.Images.Settle(context.WithoutCancel(r.hard), rec); err != nil {
		return storageOutage("pack", err)
	}
	return nil
}

func (l *Line) publish(r *reins, rec *Record) (Output, []byte, error) {
	if err := acquire(r, l.images); err != nil {
		return Output{}, nil, err
	}
	defer l.images.Release(1)
	return l.Images.Release(r.hard, rec)
}

func (l *Line) compare(r *reins, private, spki []byte) error {
	if err := acquire(r, l.cpu); err != nil {
		return err
	}
	defer l.cpu.Release(1)
	return MatchKey(private, spki)
}

// acquire waits for one unit as long as new steps may begin.
func acquire(r *reins, s *semaphore.Weighted) error { return s.Acquire(r.soft, 1) }
