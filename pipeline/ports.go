package pipeline

import (
	"context"
	"iter"
)

// Keys makes key pairs.
type Keys interface {
	// Generate may be called by many workers at once; a source with scarce
	// sessions makes them wait. The private key is a PKCS#8 PEM that the caller
	// wipes after use, nil where the key stays in the device's own token. The
	// public key is an SPKI in DER. label names the device for sources that name
	// their objects. An *Outage says that the source itself is gone.
	Generate(ctx context.Context, label string) (private, public []byte, err error)
	// AtOnce is how many concurrent calls of Generate keep the HSM busy; 0 for
	// software keys, which the CPU limits.
	AtOnce() int
}

// KeyMaker is what Keys implement that come from HSM tokens.
type KeyMaker interface {
	// MadeBy names the HSM token that made a key (SPKI, DER): "SERIAL/LABEL", or
	// "" for software. It is asked once for each key.
	MadeBy(public []byte) string
}

// Certifier is what Images implement that put certificates into images.
type Certifier interface {
	// CertifiedAs returns the certificate that Stage made over a key (SPKI, DER),
	// the zero value where it made none. It is asked once for each key.
	CertifiedAs(public []byte) Certificate
}

// Images puts keys into images. All methods may be called by many workers at
// once. Errors of the disk are an *Outage, others are the device's own.
type Images interface {
	// Stage makes the device's overlay, private key included, durable. public
	// is the key's SPKI, by which images of keys in tokens find their key.
	Stage(ctx context.Context, dev *Device, private, public []byte) (PackRef, error)
	// Release publishes the image of a staged device and reads it back: it
	// returns what is out, and the private key found there (nil for keys in
	// tokens). Calling it again for the same record publishes the same bytes.
	Release(ctx context.Context, rec *Record) (Output, []byte, error)
	// Settle is called after the release is recorded: it destroys the overlay
	// where the pack is not the product.
	Settle(ctx context.Context, rec *Record) error
	// Destroy destroys an overlay and the key in it. It is idempotent.
	Destroy(ctx context.Context, ref PackRef) error
	// DestroyOutput destroys a published image and the key in it. It is
	// idempotent.
	DestroyOutput(ctx context.Context, name string) error
	// PublicKey returns the SPKI (DER) of the private key in an overlay, nil where
	// it holds none.
	PublicKey(ctx context.Context, ref PackRef) ([]byte, error)
	// Entries yields what lies in the pack, ordered by offset.
	Entries(ctx context.Context) iter.Seq2[PackEntry, error]
}

// PackEntry is one overlay in a pack.
type PackEntry struct {
	Identity  IdentitySum
	Ref       PackRef
	Destroyed bool
}

// PackedRecord is a record's claim to a pack entry.
type PackedRecord struct {
	Identity   IdentitySum
	Ref        PackRef
	State      State
	Superseded string
}

// OnConflict says what to do when the server holds another key for an identity.
type OnConflict string

// The policies.
const (
	// ConflictFail records the conflict.
	ConflictFail OnConflict = "fail"
	// ConflictReplacePending removes other auth sets that are only pending, which
	// can't authenticate: those of a board that was booted in test, for one.
	ConflictReplacePending OnConflict = "replace-pending"
	// ConflictReplace removes the other auth set first, then preauthorizes.
	// Accepted devices stay a conflict.
	ConflictReplace OnConflict = "replace"
	// ConflictReplaceAccepted removes the auth sets of accepted devices too:
	// devices in the field that use them are locked out.
	ConflictReplaceAccepted OnConflict = "replace-accepted"
)

// Preauth is one device to preauthorize.
type Preauth struct {
	Identity Identity
	SPKI     []byte // DER
	// Replaces is an earlier key of our own (SPKI, DER) whose auth set may be
	// removed whatever the policy; nil if there is none.
	Replaces []byte
	Policy   OnConflict
}

// Server is the conversation with the Mender server. Preauthorize retries what
// is worth retrying by itself and returns when the server holds exactly this
// key for the identity. It is idempotent. It returns a *ConflictError when the
// server holds another key, an *Outage when the server is gone or refuses us,
// and any other error for what is the device's own fault.
//
// Holds says of each key whether the server has it as an auth set of its
// identity, in whatever status. It changes nothing there. The error is an
// *Outage.
type Server interface {
	Preauthorize(ctx context.Context, req Preauth) (AuthSet, error)
	Holds(ctx context.Context, keys []HeldKey) ([]bool, error)
}

// HeldKey is an identity and a key that the server may know.
type HeldKey struct {
	Identity Identity
	SPKI     []byte // DER
	DeviceID string // the server's, where it is known
}

// Change is one state change of one device and the event that says so.
type Change struct {
	// From is the state that the record must have in the ledger, with the
	// lease of Record; else nothing is written and ErrLost is returned.
	From State
	// Record is what the ledger shall hold afterwards.
	Record *Record
	// Event needs all fields but those that the ledger gives.
	Event Event
	// Details says that Record.Details changed, too.
	Details bool
	// Scrap, where it isn't empty, says why the device's live unit, if it has one,
	// becomes scrapped in the same transaction. One that is reserved or being
	// written refuses the change with ErrUnitBusy.
	Scrap string
}

// Ledger is what a line needs of one. All methods may be called by many workers
// at once.
type Ledger interface {
	// Commit writes one change and its event in one transaction. It returns
	// when both are durable; many callers share one durable commit. Any error
	// but ErrLost means that the ledger is gone.
	Committer
	// Record returns the lot's record of an identity.
	Record(ctx context.Context, lot string, id IdentitySum) (*Record, error)
	// Packed yields the records of the lot that have a reference into the pack of
	// the station ("" for all stations), ordered by its offset.
	Packed(ctx context.Context, lot, station string) iter.Seq2[PackedRecord, error]
	// StaleKeys yields the records of the lot that have a Stale key.
	StaleKeys(ctx context.Context, lot string) iter.Seq2[*Record, error]
}
