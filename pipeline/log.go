package pipeline

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// LogKind says what a log holds.
type LogKind string

// The kinds of logs.
const (
	// LogLegacy is a log of the first format: all events of one station.
	LogLegacy LogKind = "legacy"
	// LogLot holds the events that one station recorded for one lot.
	LogLot LogKind = "lot"
	// LogStation holds a station's own events and the heads of its lot logs.
	LogStation LogKind = "station"
)

// Log is one transparency log (RFC 6962): events numbered from 1 without gaps.
type Log struct {
	Station string
	Lot     string // of a lot log
	Epoch   int    // from 1; a log that was rolled back goes on under the next one
	Kind    LogKind
	Origin  string    // unique; the first line of its checkpoints
	Size    int64     // events
	Last    time.Time // of the last event; zero for an empty log
	Frozen  bool      // it takes no more events
}

// LogOrigin names a station's log of a lot, or, with lot "", the station log:
// "line-3/2026-W47", from the second epoch on "line-3/2026-W47/2"; "line-3",
// "line-3//2".
func LogOrigin(station, lot string, epoch int) string {
	origin := escapeName(station)
	switch {
	case lot == "" && epoch > 1:
		return fmt.Sprintf("%s//%d", origin, epoch)
	case lot == "":
		return origin
	case epoch > 1:
		return fmt.Sprintf("%s/%s/%d", origin, escapeName(lot), epoch)
	}
	return origin + "/" + escapeName(lot)
}

// LegacyOrigin names a station's log of the first format.
func LegacyOrigin(station string) string { return "keymill/" + escapeName(station) }

// escapeName makes a name safe as part of an origin: letters, digits, dot,
// hyphen and underscore stay, all else, and a dot in front, becomes %XX.
func escapeName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// StoredEvent is an event as the ledger keeps it.
type StoredEvent struct {
	Origin    string // of its log
	Station   string
	Epoch     int
	Seq       int64
	Lot       string
	Canonical []byte // RFC 8785 JSON
	Leaf      [sha256.Size]byte
}
