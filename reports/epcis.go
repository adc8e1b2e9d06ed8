package reports

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"keymill/pipeline"
)

// FormatEPCIS is the format of WriteEPCIS, which stands alone: it is no part of a bundle.
const FormatEPCIS = "epcis"

// PredicateEPCIS is the predicate of a signed EPCIS document.
const (
	PredicateEPCIS = "urn:keymill:attestation:epcis:1"
	fileEPCIS      = "epcis.jsonld"
	epcisTime      = "2006-01-02T15:04:05.000Z"
)

// epcisDocument is an EPCISDocument of EPCIS 2.0 (GS1 EPCIS Standard 2.0, 10.1),
// with words of the Core Business Vocabulary 2.0.
type epcisDocument struct {
	Context       []string  `json:"@context"`
	Type          string    `json:"type"`
	SchemaVersion string    `json:"schemaVersion"`
	CreationDate  string    `json:"creationDate"`
	Body          epcisBody `json:"epcisBody"`
}

type epcisBody struct {
	EventList []epcisEvent `json:"eventList"`
}

// epcisEvent is an ObjectEvent.
type epcisEvent struct {
	EventID     string   `json:"eventID"`
	Type        string   `json:"type"`
	Action      string   `json:"action"` // ADD for commissioning, DELETE for decommissioning
	BizStep     string   `json:"bizStep"`
	Disposition string   `json:"disposition"`
	EPCList     []string `json:"epcList"` // GS1 Digital Links
	Time        string   `json:"eventTime"`
	Offset      string   `json:"eventTimeZoneOffset"`
}

// epcisPredicate is the predicate of PredicateEPCIS.
type epcisPredicate struct {
	Lot     string `json:"lot"`
	GTIN    string `json:"gtin"`
	Events  int    `json:"events"`
	Station string `json:"station"`
	Time    string `json:"time"`
	MadeBy  string `json:"made_by"`
}

// WriteEPCIS writes a lot as epcis.jsonld, with a signed statement beside it, into a
// folder that must not exist yet, and returns how many events it has. A device's
// first release is its commissioning; taking it off the server after that is its
// decommissioning, and a later release commissions it again. The links are
// https://id.gs1.org/01/GTIN/21/SERIAL with opt's GTIN and serial.
func WriteEPCIS(ctx context.Context, src Source, lot, dir string, opt LabelOptions, s ListSigning) (int, error) {
	document, gtin, err := epcisOf(ctx, src, lot, opt)
	if err != nil {
		return 0, err
	}
	n := len(document.Body.EventList)
	write := func(w io.Writer) error {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		if err := enc.Encode(document); err != nil {
			return err
		}
		_, err := w.Write(out.Bytes())
		return err
	}
	predicate := epcisPredicate{Lot: lot, GTIN: gtin, Events: n, Station: s.Station, Time: s.Time, MadeBy: s.MadeBy}
	return n, writeSigned(ctx, dir, signedFile{fileEPCIS, PredicateEPCIS, predicate, write}, s.Signer)
}

func epcisOf(ctx context.Context, src Source, lot string, opt LabelOptions) (*epcisDocument, string, error) {
	gtin, err := fullGTIN(opt.GTIN)
	if err == nil && gtin == "" {
		err = labelError("Set label.gtin to the number below the article's EAN or UPC code.", "EPCIS events need the article's GTIN")
	}
	if err != nil {
		return nil, "", err
	}
	links, err := epcisLinks(ctx, src, lot, &Labels{opt: LabelOptions{Serial: opt.Serial, LinkBase: "https://id.gs1.org"}, gtin: gtin})
	if err != nil {
		return nil, "", err
	}
	type timed struct {
		line *eventLine
		id   string
	}
	var lines []timed
	for stored, err := range src.Events(ctx, lot) {
		if err != nil {
			return nil, "", err
		}
		e, err := parseEvent(stored.Canonical)
		if err != nil {
			return nil, "", fmt.Errorf("station %s, seq %d: %w", stored.Station, stored.Seq, err)
		}
		if e.Action == pipeline.ActionRelease || e.Action == pipeline.ActionUndo && e.Row > 0 {
			lines = append(lines, timed{e, eventID(stored.Canonical)})
		}
	}
	slices.SortStableFunc(lines, func(a, b timed) int { return a.line.Time.Compare(b.line.Time) })
	events, last, out := []epcisEvent{}, time.Time{}, map[int]bool{}
	for _, one := range lines {
		e := one.line
		release := e.Action == pipeline.ActionRelease
		if out[e.Row] == release {
			continue // a further image of a serial that is out, or one that never was
		}
		out[e.Row], last = release, e.Time
		event := epcisEvent{EventID: one.id, Type: "ObjectEvent", Action: "DELETE", BizStep: "decommissioning", Disposition: "inactive",
			EPCList: []string{links[e.Row]}, Time: e.Time.UTC().Format(epcisTime), Offset: "+00:00"}
		if release {
			event.Action, event.BizStep, event.Disposition = "ADD", "commissioning", "active"
		}
		events = append(events, event)
	}
	if last.IsZero() {
		return nil, "", pipeline.WithHint(fmt.Errorf("lot %s has no released device, so there is no event", lot), "Run the lot first.")
	}
	return &epcisDocument{Context: []string{"https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"}, Type: "EPCISDocument",
		SchemaVersion: "2.0", CreationDate: last.UTC().Format(epcisTime), Body: epcisBody{events}}, gtin, nil
}

// epcisLinks returns the Digital Links of a lot's devices that have a key, by row.
func epcisLinks(ctx context.Context, src Source, lot string, labels *Labels) (map[int]string, error) {
	links, rows := map[int]string{}, map[string]int{}
	for r, err := range src.Records(ctx, lot) {
		if err != nil {
			return nil, err
		}
		unit := LabelUnit{Device: &r.Device}
		serial, err := labels.serialOf(unit)
		if err != nil {
			return nil, err
		}
		if len(serial) > 20 || strings.Trim(serial, gs1Chars) != "" {
			return nil, labelError("Set label.serial to another attribute.",
				"row %d: %q is no serial number of GS1: 20 characters at most, no spaces and none of # $ @ [ \\ ] ^ ` { | } ~", r.Row, serial)
		}
		link := labels.linkOf(unit, "")
		if other, twice := rows[link]; twice {
			return nil, labelError("Set label.serial to another attribute.", "rows %d and %d have the serial number %q", other, r.Row, serial)
		}
		links[r.Row], rows[link] = link, r.Row
	}
	return links, nil
}

// eventID returns a UUID (RFC 9562, version 8) that is always the same for an event.
func eventID(canonical []byte) string {
	id := sha256.Sum256(canonical)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
}
