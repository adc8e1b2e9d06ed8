package pipeline

import (
	"crypto/sha256"
	"time"
)

// EventSchema names the form of an event's canonical JSON. EventSchema1 is that
// of the first format's logs, whose events lack the members that came later.
const (
	EventSchema  = "keymill.event/2"
	EventSchema1 = "keymill.event/1"
)

// The actions of events. Those of a device carry its identity; those of a lot
// or a run carry what holds for all their devices, so that device events stay
// small: a device event names its run by the sequence number of ActionRun.
const (
	ActionPlan         = "lot-planned"   // the lot and its records were made
	ActionRun          = "run-started"   // a station began or resumed a lot
	ActionStage        = "staged"        // a key was made and lies in the pack
	ActionPreauthorize = "preauthorized" // the server holds identity and key
	ActionRelease      = "released"      // the image is out and was read back
	ActionFail         = "failed"        // a step failed; Reason says why
	ActionConflict     = "conflict"      // the server holds another key
	ActionDestroyKey   = "key-destroyed" // a private key was destroyed unused
	ActionRekey        = "rekeyed"       // the device's key was given up for a new one
	ActionRevoke       = "cert-revoked"  // the device's certificate does not hold any more
	ActionUndo         = "undone"        // the device was taken off the server
	ActionFlash        = "flashed"       // the device's image was written to a medium
	ActionVerify       = "verified"      // ledger and server were compared
	ActionRunEnd       = "run-ended"     // totals of a run
	ActionClose        = "lot-closed"    // the totals reconcile
	ActionAllocate     = "allocated"     // addresses and serial numbers were handed out to a lot
	ActionPrune        = "pruned"        // a closed lot's images and pack were destroyed, as retention asks
	ActionExport       = "exported"      // an audit bundle was written
	ActionReturn       = "rma"           // a returned unit's device got a successor

	// Of units.
	ActionReserveUnit  = "unit-reserved"
	ActionWriteUnit    = "unit-writing"
	ActionVerifyUnit   = "unit-verified"
	ActionLabelUnit    = "unit-labelled"
	ActionConfirmUnit  = "unit-confirmed"
	ActionDeliverUnit  = "unit-delivered"
	ActionFailUnit     = "unit-failed"
	ActionScrapUnit    = "unit-scrapped"
	ActionTakeBackUnit = "unit-restored" // rebuilt from a pack's hand-out mark

	// Of logs. Facts name the log: origin, size and root (base64).
	ActionLotHead   = "lot-head"      // a lot log's head was signed; in the station log
	ActionFrozen    = "log-frozen"    // the first format's log ended; first in the station log
	ActionContinued = "log-continued" // a lot begun in the first format goes on; first in its lot log
	ActionRestarted = "log-restarted" // a new epoch begins; first in it
	ActionRestore   = "restored"      // a copy of the ledger was put back
	ActionAdopt     = "key-adopted"   // a key that the ledger had forgotten was found, and the server knows it
	ActionRetire    = "retired"       // a station was retired by another
)

// Event is one state change, appended to the ledger in the same transaction as
// the change. Its canonical JSON (RFC 8785) is a leaf of the station's
// transparency log. It never holds a private key, a wrapped key, a PIN or a
// token.
type Event struct {
	Station string
	Epoch   int   // of the log, from 1; given by the ledger
	Seq     int64 // within the log, from 1 without gaps; given by the ledger
	Time    time.Time
	// First says that the event goes into a log of the first format; given by the
	// ledger.
	First  bool
	Lot    string
	Run    int64 // Seq of the run-started event, 0 before there is one
	Action string
	Reason string

	// Of a device.
	Row       int
	Device    Identity
	Serial    string // the attribute "serial", by which people know the device
	From, To  State
	Attempt   int
	Auth      AuthSet
	Algorithm string
	SPKI      string // fingerprint: SHA-256 of the SPKI, hexadecimal
	Key       string // what became of the private key: "in-pack", "in-image", "destroyed"
	Output    Output
	ReadBack  string // "match" when the image's key equals the recorded one
	HSM       string // the HSM token that made the key: "serial/label"

	// Of the device's certificate.
	CertSerial   string
	CertSHA256   string // hexadecimal
	CertNotAfter string // RFC 3339

	// Of a unit.
	Unit         int // its number within the lot
	Medium, Slot string
	Operator     string

	// Of a returned unit: the new board's identity, and whom the device follows
	// or is followed by.
	Board, Predecessor, Successor Identity

	// Of a lot or a run: named facts (tool version, binary hash, configuration
	// hash, manifest and golden hashes, server, operator, key source, totals).
	// Names must be sorted.
	Facts []Attr
}

// Canonical returns the event as RFC 8785 JSON: members sorted by name, empty
// ones left out, time as RFC 3339 in UTC with microseconds.
func (e *Event) Canonical() []byte {
	schema := EventSchema
	if e.First {
		schema = EventSchema1
	}
	o := object{buf: make([]byte, 0, 1024)}
	o.str("action", e.Action)
	o.str("algorithm", e.Algorithm)
	o.num("attempt", int64(e.Attempt))
	o.str("auth_set_id", e.Auth.AuthSetID)
	o.attrs("board", sortedAttrs(e.Board))
	o.str("cert_not_after", e.CertNotAfter)
	o.str("cert_serial", e.CertSerial)
	o.str("cert_sha256", e.CertSHA256)
	o.attrs("device", sortedAttrs(e.Device))
	if e.Epoch > 1 {
		o.num("epoch", int64(e.Epoch))
	}
	o.attrs("facts", e.Facts)
	o.str("from", string(e.From))
	o.str("hsm", e.HSM)
	o.num("http_status", int64(e.Auth.HTTPStatus))
	o.str("key", e.Key)
	o.str("lot", e.Lot)
	o.str("medium", e.Medium)
	o.str("operator", e.Operator)
	o.num("output_bytes", e.Output.Bytes)
	o.str("output_name", e.Output.Name)
	o.str("output_sha256", e.Output.SHA256)
	o.attrs("predecessor", sortedAttrs(e.Predecessor))
	o.str("read_back", e.ReadBack)
	o.str("reason", e.Reason)
	o.str("request_id", e.Auth.RequestID)
	o.num("requests", int64(e.Auth.Attempts))
	o.num("row", int64(e.Row))
	o.num("run", e.Run)
	o.str("schema", schema)
	o.num("seq", e.Seq)
	o.str("serial", e.Serial)
	o.str("server_device_id", e.Auth.DeviceID)
	o.str("slot", e.Slot)
	o.str("spki_sha256", e.SPKI)
	o.str("station", e.Station)
	o.attrs("successor", sortedAttrs(e.Successor))
	o.name("time")
	o.buf = append(o.buf, '"')
	o.buf = e.Time.UTC().AppendFormat(o.buf, "2006-01-02T15:04:05.000000Z")
	o.buf = append(o.buf, '"')
	o.str("to", string(e.To))
	o.num("unit", int64(e.Unit))
	return o.bytes()
}

// LeafHash returns the RFC 6962 leaf hash of an event's canonical JSON.
func LeafHash(canonical []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(canonical)
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}
