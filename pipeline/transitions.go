package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Committer writes changes; see Ledger.Commit.
type Committer interface {
	Commit(ctx context.Context, c Change) error
}

// Appender writes events that change no record, durably, and returns their Seq.
type Appender interface {
	Append(ctx context.Context, e Event) (int64, error)
}

// KeysInToken is the Lot.Keys of lots whose private keys stay in the devices'
// own tokens: their images hold none.
const KeysInToken = "token"

// What became of a private key, as events say it.
const (
	KeyInPack     = "in-pack"      // staged
	KeyInImage    = "in-image"     // released
	KeyInToken    = "in-token"     // it never left the device's own token
	KeyInDevice   = "in-device"    // the device made it; it was never here
	KeyDestroyed  = "destroyed"    // overwritten
	keyOutOfReach = "out-of-reach" // with a retired station
)

// Transitions makes the state changes of one station's devices, each with its
// event: nothing else constructs a Change. Every event of a device names its
// lot, run, row, serial and attempt. Methods may be called by many goroutines
// at once. They update the record that they are given once the change is
// durable; ErrLost means that another worker had it. They don't heed
// cancellation: what was done is recorded.
type Transitions struct {
	Ledger  Committer
	Station string
	Run     int64 // Seq of the run-started event; 0 where there is no run
	// Reached is told each state change after it is durable; nil is allowed.
	Reached func(from, to State)
}

// Made is a key that was made for a device, and its certificate where it has one.
type Made struct {
	SPKI      []byte // DER
	Algorithm string
	HSM       string // the HSM token that made it: "serial/label"
	Cert      Certificate
}

// staged: key and overlay lie in the pack at ref.
func (t *Transitions) staged(ctx context.Context, rec *Record, key string, made Made, ref PackRef) error {
	event := Event{Action: ActionStage, Key: key, HSM: made.HSM, CertSerial: made.Cert.Serial, CertSHA256: made.Cert.SHA256, CertNotAfter: made.Cert.notAfter()}
	return t.commit(ctx, rec, Staged, event, func(next *Record) {
		next.PublicKey, next.Algorithm, next.Pack, next.PackStation = made.SPKI, made.Algorithm, ref, t.Station
		next.HSM, next.Cert = made.HSM, made.Cert
		next.Auth = AuthSet{}
		next.KeysGenerated++
	})
}

// preauthorized: the server holds identity and key.
func (t *Transitions) preauthorized(ctx context.Context, rec *Record, auth AuthSet) error {
	event := Event{Action: ActionPreauthorize, Auth: auth, Reason: auth.Removed}
	auth.Removed = ""
	return t.commit(ctx, rec, Preauthorized, event, func(next *Record) {
		next.Auth = auth
	})
}

// released: the image is out and was read back. readBack is empty where the
// image holds no key.
func (t *Transitions) released(ctx context.Context, rec *Record, out Output, key, readBack string) error {
	event := Event{Action: ActionRelease, Output: out, Key: key, ReadBack: readBack}
	return t.commit(ctx, rec, Released, event, func(next *Record) { next.Output = out })
}

// failed records a device's own failure, which may be a *ConflictError.
func (t *Transitions) failed(ctx context.Context, rec *Record, cause error) error {
	to, event := Failed, Event{Action: ActionFail, Reason: cause.Error()}
	if conflict, ok := errors.AsType[*ConflictError](cause); ok {
		to, event.Action = Conflicted, ActionConflict
		event.Auth = AuthSet{DeviceID: conflict.DeviceID, RequestID: conflict.RequestID, HTTPStatus: conflict.HTTPStatus}
	}
	return t.commit(ctx, rec, to, event, func(next *Record) { next.Reason = event.Reason })
}

// StrayDestroyed counts a key that was staged and never recorded, which the
// server doesn't know. spki is nil where the key isn't readable any more.
func (t *Transitions) StrayDestroyed(ctx context.Context, rec *Record, key string, spki []byte) error {
	reason := rec.Reason
	event := Event{Action: ActionDestroyKey, Key: key, SPKI: Fingerprint(spki),
		Reason: "made before an interruption, never recorded; the server doesn't know it"}
	return t.commit(ctx, rec, rec.State, event, func(next *Record) {
		next.Reason = reason
		next.KeysGenerated++
		next.KeysDestroyed++
	})
}

// Undone records that a device was taken off the server, which answered with
// removal, and what became of its key ("" where it wasn't found).
func (t *Transitions) Undone(ctx context.Context, rec *Record, removal, key string) error {
	event := Event{Action: ActionUndo, Reason: "server: " + removal, Auth: AuthSet{DeviceID: rec.Auth.DeviceID}, CertSerial: rec.Cert.Serial, CertSHA256: rec.Cert.SHA256}
	if len(rec.PublicKey) > 0 {
		event.Key = key
	}
	return t.commit(ctx, rec, Undone, event, func(next *Record) {
		next.Pack, next.Output, next.Auth.Status = PackRef{}, Output{}, ""
		next.Cert = rec.Cert.revoked("cessation-of-operation", t.now())
		next.KeysDestroyed = next.KeysGenerated
	})
}

// Rekeyed sends a device back to the start of the line. Its old key comes off the
// server before the new one goes on it. Nothing of the old key is destroyed yet:
// the record's Stale says where it lies, until StaleDestroyed.
func (t *Transitions) Rekeyed(ctx context.Context, rec *Record, reason string) error {
	return t.givenUp(ctx, rec, Event{Reason: reason})
}

// Returned is Rekeyed for a unit that came back: a person says why, and the unit
// that the device's image went to is scrapped in the same transaction.
func (t *Transitions) Returned(ctx context.Context, rec *Record, reason string) error {
	return t.givenUp(ctx, rec, Event{Action: ActionReturn, Reason: reason})
}

func (t *Transitions) givenUp(ctx context.Context, rec *Record, event Event) error {
	if !rec.Stale.IsZero() {
		return fmt.Errorf("device %s has a key that was given up and is not destroyed yet", rec.Identity)
	}
	return t.rekeyed(ctx, rec, event, func(next *Record) {
		next.Stale = Stale{Pack: rec.Pack, Output: rec.Output.Name, Fingerprint: rec.Fingerprint()}
	})
}

// Abandoned is Rekeyed for a key that lies out of reach, with a station that was
// retired: nobody here can destroy it. Should that station come back, it does.
func (t *Transitions) Abandoned(ctx context.Context, rec *Record, reason string) error {
	return t.rekeyed(ctx, rec, Event{Reason: reason, Key: keyOutOfReach}, func(next *Record) {
		next.Stale = Stale{}
		next.KeysDestroyed = next.KeysGenerated
	})
}

func (t *Transitions) rekeyed(ctx context.Context, rec *Record, event Event, change func(next *Record)) error {
	event.Action = cmp.Or(event.Action, ActionRekey)
	event.SPKI, event.Algorithm = rec.Fingerprint(), rec.Algorithm
	event.CertSerial, event.CertSHA256 = rec.Cert.Serial, rec.Cert.SHA256
	return t.commit(ctx, rec, Planned, event, func(next *Record) {
		// A key that the server never confirmed does not displace the one before
		// it, which may still be there.
		if rec.Auth.Status != "" || len(rec.Replaces) == 0 {
			next.Replaces = rec.PublicKey
		}
		change(next)
		next.PublicKey, next.Algorithm = nil, ""
		next.HSM, next.Cert = "", Certificate{} // the event has the old one, for the revocation list
		next.Pack, next.Auth, next.Output = PackRef{}, AuthSet{}, Output{}
	})
}

// StaleDestroyed records what became of a key that was given up: key is
// KeyDestroyed, KeyInToken, or "" where it wasn't found.
func (t *Transitions) StaleDestroyed(ctx context.Context, rec *Record, key string) error {
	event := Event{Action: ActionDestroyKey, Key: key, Reason: "the device got a new key", SPKI: rec.Stale.Fingerprint}
	if key == "" {
		event.Reason = "the device got a new key; the old one was not found"
	}
	station, reason := rec.Station, rec.Reason
	return t.commit(ctx, rec, rec.State, event, func(next *Record) {
		next.Station, next.Reason = station, reason
		next.Stale = Stale{}
		next.KeysDestroyed++
	})
}

// Adopted gives a record the key that was found for it, which the server knows:
// the ledger had forgotten it. The key lies in the pack at ref, or, where ref is
// zero, in the published image out.
func (t *Transitions) Adopted(ctx context.Context, rec *Record, public []byte, algorithm string, ref PackRef, out Output) error {
	to := Preauthorized
	if ref.IsZero() {
		to = Released
	}
	event := Event{Action: ActionAdopt, Reason: "found after a copy of the ledger was put back; the server knows it", Output: out}
	if event.Key = KeyInPack; ref.IsZero() {
		event.Key, event.ReadBack = KeyInImage, "match"
	}
	return t.commit(ctx, rec, to, event, func(next *Record) {
		// The record's own key, if it is another one, is not where it was: the
		// image that held it has been replaced.
		if len(rec.PublicKey) > 0 && rec.Fingerprint() != Fingerprint(public) {
			next.KeysDestroyed++
		}
		if rec.Fingerprint() != Fingerprint(public) {
			next.KeysGenerated++
		}
		next.PublicKey, next.Algorithm, next.Pack, next.Output = public, algorithm, ref, out
		next.Replaces, next.Stale = nil, Stale{}
		if !ref.IsZero() {
			next.PackStation = t.Station
		}
		next.Auth.Status = "preauthorized"
	})
}

// CertRevoked records that a device's certificate doesn't hold any more. reason
// is one of RFC 5280's, in words.
func (t *Transitions) CertRevoked(ctx context.Context, rec *Record, reason string) error {
	event := Event{Action: ActionRevoke, Reason: reason, SPKI: rec.Fingerprint(), CertSerial: rec.Cert.Serial, CertSHA256: rec.Cert.SHA256}
	kept := rec.Reason
	return t.commit(ctx, rec, rec.State, event, func(next *Record) {
		next.Reason = kept
		next.Cert = rec.Cert.revoked(reason, t.now())
	})
}

func (t *Transitions) now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// SupersededDestroyed records what became of the key of a device that another
// lot took over.
func (t *Transitions) SupersededDestroyed(ctx context.Context, rec *Record, key string) error {
	event := Event{Action: ActionDestroyKey, Key: key, Reason: "the device was taken over by lot " + rec.Superseded,
		SPKI: rec.Fingerprint(), Algorithm: rec.Algorithm}
	station, reason := rec.Station, rec.Reason
	return t.commit(ctx, rec, rec.State, event, func(next *Record) {
		next.Station, next.Reason = station, reason
		next.Pack = PackRef{}
		next.KeysDestroyed++
	})
}

// Flashed returns the event that a device's image was written to a medium and
// read back: it changes no record. facts must be sorted.
func (t *Transitions) Flashed(rec *Record, facts []Attr) Event {
	event := Event{Action: ActionFlash, ReadBack: "match", SPKI: rec.Fingerprint(), Facts: facts}
	t.describe(rec, &event)
	return event
}

// describe says which device an event is about, and who made it in which run.
func (t *Transitions) describe(rec *Record, event *Event) {
	event.Station, event.Lot, event.Run = t.Station, rec.Lot, t.Run
	if t.Run == 0 && rec.Station == t.Station {
		event.Run = rec.Run // done outside a run, to what that run made
	}
	event.Row, event.Device, event.Attempt = rec.Row, rec.Identity, rec.Attempts
	event.Serial, _ = rec.Attr("serial")
}

// commit records a change of rec to the state to, and updates rec when it is
// durable. An event that names no key is about the key that the record has
// afterwards, unless a key was destroyed.
func (t *Transitions) commit(ctx context.Context, rec *Record, to State, event Event, change func(next *Record)) error {
	next := *rec
	next.State, next.Reason, next.Station = to, "", t.Station
	if t.Run != 0 {
		next.Run = t.Run
	}
	change(&next)
	t.describe(rec, &event)
	event.From, event.To = rec.State, to
	if event.Action != ActionDestroyKey && event.SPKI == "" {
		event.Algorithm, event.SPKI = next.Algorithm, next.Fingerprint()
	}
	c := Change{From: rec.State, Record: &next, Event: event, Details: next.Details != rec.Details}
	switch event.Action {
	case ActionUndo, ActionRekey:
		c.Scrap = event.Action
	case ActionReturn:
		c.Scrap = event.Reason
	}
	err := t.Ledger.Commit(context.WithoutCancel(ctx), c)
	if errors.Is(err, ErrLost) || errors.Is(err, ErrUnitBusy) {
		return err
	}
	if err != nil {
		return storageOutage("ledger", err)
	}
	from := rec.State
	*rec = next
	if t.Reached != nil && from != to {
		t.Reached(from, to)
	}
	return nil
}
