package pipeline

import (
	"crypto/sha256"
	"time"
)

// EventSchema names the form of an event's canonical JSON.
const EventSchema = "keymill.event/1"

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
	ActionUndo         = "undone"        // the device was taken off the server
	ActionFlash        = "flashed"       // the device's image was written to a medium
	ActionVerify       = "verified"      // ledger and server were compared
	ActionRunEnd       = "run-ended"     // totals of a run
	ActionClose        = "lot-closed"    // the totals reconcile
	ActionAllocate     = "allocated"     // addresses and serial numbers were handed out to a lot
	ActionPrune        = "pruned"        // a closed lot's images and pack were destroyed, as retention asks
	ActionExport       = "exported"      // an audit bundle was written
)

// Event is one state change, appended to the ledger in the same transaction as
// the change. Its canonical JSON (RFC 8785) is a leaf of the station's
// transparency log. It never holds a private key, a wrapped key, a PIN or a
// token.
type Event struct {
	Station string // numbering is per station, without gaps
	Seq     int64  // from 1; given by the ledger
	Time    time.Time
	Lot     string
	Run     int64 // Seq of the run-started event, 0 before there is one
	Action  string
	Reason  string

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

	// Of a lot or a run: named facts (tool version, binary hash, configuration
	// hash, manifest and golden hashes, server, operator, key source, totals).
	// Names must be sorted.
	Facts []Attr
}

// Canonical returns the event as RFC 8785 JSON: members sorted by name, empty
// ones left out, time as RFC 3339 in UTC with microseconds.
func (e *Event) Canonical() []byte {
	o := object{buf: make([]byte, 0, 512)}
	o.str("action", e.Action)
	o.str("algorithm", e.Algorithm)
	o.num("attempt", int64(e.Attempt))
	o.str("auth_set_id", e.Auth.AuthSetID)
	o.attrs("device", sortedAttrs(e.Device))
	o.attrs("facts", e.Facts)
	o.str("from", string(e.From))
	o.num("http_status", int64(e.Auth.HTTPStatus))
	o.str("key", e.Key)
	o.str("lot", e.Lot)
	o.num("output_bytes", e.Output.Bytes)
	o.str("output_name", e.Output.Name)
	o.str("output_sha256", e.Output.SHA256)
	o.str("read_back", e.ReadBack)
	o.str("reason", e.Reason)
	o.str("request_id", e.Auth.RequestID)
	o.num("requests", int64(e.Auth.Attempts))
	o.num("row", int64(e.Row))
	o.num("run", e.Run)
	o.str("schema", EventSchema)
	o.num("seq", e.Seq)
	o.str("serial", e.Serial)
	o.str("server_device_id", e.Auth.DeviceID)
	o.str("spki_sha256", e.SPKI)
	o.str("station", e.Station)
	o.str("time", e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"))
	o.str("to", string(e.To))
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

// StoredEvent is an event as the ledger keeps it.
type StoredEvent struct {
	Station   string
	Seq       int64
	Lot       string
	Canonical []byte // RFC 8785 JSON
	Leaf      [sha256.Size]byte
}
