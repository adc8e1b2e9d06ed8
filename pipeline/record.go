package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// State is where a device stands. ARCHITECTURE.md draws the transitions.
type State string

// The states of a device, in the order in which a device passes them.
const (
	// Planned: in the ledger, nothing made yet.
	Planned State = "planned"
	// Staged: key and overlay are durable in the pack; public key and pack
	// reference are in the ledger.
	Staged State = "staged"
	// Preauthorized: the server answered 201, or showed the same key.
	Preauthorized State = "preauthorized"
	// Released: the image is out, was read back, and holds the recorded key.
	Released State = "released"
	// Failed: retryable; Record.Reason says why.
	Failed State = "failed"
	// Conflicted: the server holds another key for this identity. Only a retry
	// with a policy touches it.
	Conflicted State = "conflict"
	// Undone: taken back; off the server, its key destroyed.
	Undone State = "undone"
)

// States lists all states in the order in which reports show them.
var States = []State{Planned, Staged, Preauthorized, Released, Failed, Conflicted, Undone}

// PackRef says where in a lot's pack a device's overlay lies. The zero value
// means that there is none (never staged, or destroyed).
type PackRef struct {
	Offset int64 // bytes from the start of the pack
	Length int64 // bytes
}

// IsZero reports whether there is no overlay.
func (r PackRef) IsZero() bool { return r == PackRef{} }

// Output describes a released image.
type Output struct {
	Name   string // file name below the lot's images folder; empty for packs
	Bytes  int64  // length of the image in bytes
	SHA256 string // of the image, hexadecimal; empty where it was not computed
}

// AuthSet is what the server said about a device's identity and key.
type AuthSet struct {
	DeviceID   string // server's id of the device; may be empty after a forced heal
	AuthSetID  string // known only where the server was asked for details
	Status     string // "preauthorized" or "accepted"
	RequestID  string // X-MEN-RequestID of the deciding answer
	HTTPStatus int    // of the deciding answer
	Attempts   int    // HTTP requests that it took
	Removed    string // what was removed before it, in words, for the event; not kept in the record
}

// Record is what the ledger knows of one device of one lot.
type Record struct {
	Lot string
	Device

	State  State
	Reason string // why the device failed or conflicts; empty otherwise

	// Set when staged; kept for ever, also through failures.
	PublicKey []byte // SubjectPublicKeyInfo, DER
	Algorithm string
	Pack      PackRef

	// Replaces is the public key (SPKI, DER) of an earlier key of our own
	// making for this identity, whose auth set must be removed from the server
	// before this record's key is preauthorized. Empty for a first key.
	Replaces []byte

	// Set when preauthorized.
	Auth AuthSet

	// Set when released.
	Output Output

	Attempts      int // times that a worker took the device up
	KeysGenerated int // keys that were staged for this record
	KeysDestroyed int // of these, keys that were destroyed unused

	// Superseded names the lot that took the device over after it failed here;
	// empty while this record is the identity's live one.
	Superseded string

	Station string    // that changed it last
	Lease   string    // empty unless a station works on it
	Run     int64     // Seq of the run-started event of the last run that changed it
	Updated time.Time // UTC, of the last state change

	// PackStation is the station in whose pack Pack lies.
	PackStation string

	// Inventory is changed by the ledger's SetInventory alone.
	Inventory       Inventory
	InventoryReason string

	Details
}

// Details is what few records have, and fewer changes touch.
type Details struct {
	HSM  string // the HSM token that made the key: "serial/label"
	Cert Certificate

	// Stale is a key that was given up and is not destroyed yet.
	Stale Stale

	// Predecessor and Successor link the devices of a returned unit.
	Predecessor, Successor DeviceRef
}

// Certificate is what a device's certificate is known by.
type Certificate struct {
	Serial              string // hexadecimal
	SHA256              string // of its DER, hexadecimal
	NotBefore, NotAfter time.Time
	Revoked             time.Time // zero while it holds
	RevokedReason       string
}

// revoked is the certificate once it doesn't hold any more; the first reason stays.
func (c Certificate) revoked(reason string, when time.Time) Certificate {
	if c.Serial != "" && c.Revoked.IsZero() {
		c.Revoked, c.RevokedReason = when, reason
	}
	return c
}

// notAfter is when it ends, as events say it.
func (c Certificate) notAfter() string {
	if c.NotAfter.IsZero() {
		return ""
	}
	return c.NotAfter.UTC().Format(time.RFC3339)
}

// Stale is where a key lies that its device has given up: the ledger says so
// before anything is destroyed, and forgets it when all of it is.
type Stale struct {
	Pack        PackRef
	Output      string // name of its image
	Fingerprint string
}

// IsZero reports whether there is none.
func (s Stale) IsZero() bool { return s == Stale{} }

// DeviceRef names a device of a lot.
type DeviceRef struct {
	Lot string
	Row int
}

// Inventory is how far the server's inventory knows of a device: "" where it is
// not asked to, InventoryPending, InventoryDone or InventoryFailed.
type Inventory string

// The states of the inventory step, which holds no device back.
const (
	InventoryPending Inventory = "pending"
	InventoryDone    Inventory = "done"
	InventoryFailed  Inventory = "failed"
)

// Fingerprint returns the SHA-256 of the record's SPKI in hexadecimal, and ""
// before a key was staged.
func (r *Record) Fingerprint() string { return Fingerprint(r.PublicKey) }

// Fingerprint returns the SHA-256 of an SPKI (DER) in hexadecimal, and "" for
// none.
func Fingerprint(spki []byte) string {
	if len(spki) == 0 {
		return ""
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// Progress returns the state that the record's contents vouch for, whatever
// failure was recorded: where a worker goes on.
func (r *Record) Progress() State {
	switch {
	case r.State == Released || r.State == Undone:
		return r.State
	case r.Pack.IsZero() && len(r.PublicKey) == 0: // with a key: the device's own, which no image holds
		return Planned
	case r.Auth.Status == "":
		return Staged
	default:
		return Preauthorized
	}
}

// Lot is one production run of one manifest. All fields but Closed are fixed
// when the lot is planned: a run that differs in one of them is refused.
type Lot struct {
	Name           string
	ManifestPath   string
	ManifestSHA256 string // hexadecimal
	Devices        int
	GoldenPath     string
	GoldenSHA256   string // of the unpacked image, hexadecimal
	GoldenBytes    int64
	InjectSHA256   string // of the canonical injection list, hexadecimal
	Format         string
	Keys           string // source of the keys: software, hsm, ..
	Algorithm      string
	Server         string // URL
	Out            string // absolute path of out/LOT
	Station        string
	ServerMode     string    // how keys come to the server; "" is preauthorization
	Unique         []string  // attributes that no two live devices of the ledger may share
	Settings       string    // canonical JSON of what all stations of the lot must share
	Created        time.Time // UTC
	Closed         time.Time // UTC; zero while the lot is open
}

// KeyTotals is the balance of a lot's keys: Generated equals Released plus
// Destroyed plus those that lie staged.
type KeyTotals struct {
	Generated int `json:"generated"`
	// Imported are keys that existed before: of files, or of the devices
	// themselves. Where it is shown, Generated doesn't count them.
	Imported  int `json:"imported,omitempty"`
	Released  int `json:"released"`
	Destroyed int `json:"destroyed"`
}

// Totals is a lot's balance; its JSON is the contract of `status --json`.
type Totals struct {
	Lot           string    `json:"lot"`
	Devices       int       `json:"devices"`
	Planned       int       `json:"planned"`
	Staged        int       `json:"staged"`
	Preauthorized int       `json:"preauthorized"`
	Released      int       `json:"released"`
	Failed        int       `json:"failed"`
	Conflict      int       `json:"conflict"`
	Undone        int       `json:"undone,omitempty"`
	Keys          KeyTotals `json:"keys"`
	// InventoryPending and InventoryFailed are devices that the server's inventory
	// does not describe yet, where server.device asks for it.
	InventoryPending int `json:"inventory_pending,omitempty"`
	InventoryFailed  int `json:"inventory_failed,omitempty"`
}

// Count returns a pointer to the counter of a state, nil for an unknown one.
func (t *Totals) Count(s State) *int {
	switch s {
	case Planned:
		return &t.Planned
	case Staged:
		return &t.Staged
	case Preauthorized:
		return &t.Preauthorized
	case Released:
		return &t.Released
	case Failed:
		return &t.Failed
	case Conflicted:
		return &t.Conflict
	case Undone:
		return &t.Undone
	}
	return nil
}

// Check reports whether the balance holds: every device is in one state, and
// no key is unaccounted for.
func (t *Totals) Check() error {
	sum := 0
	for _, state := range States {
		sum += *t.Count(state)
	}
	if sum != t.Devices {
		return fmt.Errorf("%d devices, but the states count %d", t.Devices, sum)
	}
	held := t.Keys.Generated + t.Keys.Imported - t.Keys.Released - t.Keys.Destroyed
	if open := t.Devices - t.Released - t.Undone; held < 0 || held > open {
		return fmt.Errorf("%d keys generated, %d released, %d destroyed: that leaves %d for %d devices under way",
			t.Keys.Generated, t.Keys.Released, t.Keys.Destroyed, held, open)
	}
	if t.Released+t.Undone == t.Devices && held != 0 {
		return fmt.Errorf("all devices are done with, but %d keys are left over", held)
	}
	return nil
}
