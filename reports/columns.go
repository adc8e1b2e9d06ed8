package reports

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"keymill/pipeline"
)

// A column of the tables. Its value is a string, an int64 or a time.Time; nil
// leaves the cell empty.
type column struct {
	name  string
	width float64 // of a spreadsheet's column, in characters
	value func(r *pipeline.Record) any
}

// columns returns a table's columns: row, identity, other attributes, then
// what keymill recorded. An attribute that is named like a column of ours
// becomes "attr.NAME": manifests cannot name attributes with a dot.
func columns(s *Summary) []column {
	cols := []column{{"row", 8, func(r *pipeline.Record) any { return int64(r.Row) }}}
	ours := recordColumns()
	for _, name := range slices.Concat(s.Identity, s.Attributes) {
		title := name
		if name == "row" || slices.ContainsFunc(ours, func(c column) bool { return c.name == name }) {
			title = "attr." + name
		}
		cols = append(cols, column{title, 20, func(r *pipeline.Record) any { return attribute(r, name) }})
	}
	return append(cols, ours...)
}

// attribute looks a value up in the identity, then among the attributes.
func attribute(r *pipeline.Record, name string) any {
	for _, a := range r.Identity {
		if a.Name == name {
			return a.Value
		}
	}
	v, _ := r.Attr(name)
	return v
}

func recordColumns() []column {
	return []column{
		{"state", 14, func(r *pipeline.Record) any { return string(r.State) }},
		{"reason", 30, func(r *pipeline.Record) any { return r.Reason }},
		{"algorithm", 12, func(r *pipeline.Record) any { return r.Algorithm }},
		{"spki_sha256", 66, func(r *pipeline.Record) any { return r.Fingerprint() }},
		{"public_key", 62, func(r *pipeline.Record) any { return base64.StdEncoding.EncodeToString(r.PublicKey) }},
		{"server_device_id", 38, func(r *pipeline.Record) any { return r.Auth.DeviceID }},
		{"request_id", 38, func(r *pipeline.Record) any { return r.Auth.RequestID }},
		{"output_name", 26, func(r *pipeline.Record) any { return r.Output.Name }},
		{"output_bytes", 14, func(r *pipeline.Record) any { return r.Output.Bytes }},
		{"output_sha256", 66, func(r *pipeline.Record) any { return r.Output.SHA256 }},
		{"attempts", 10, func(r *pipeline.Record) any { return int64(r.Attempts) }},
		{"updated", 22, func(r *pipeline.Record) any { return r.Updated }},
	}
}

// cellText returns a column's value as text.
func cellText(v any) string {
	switch v := v.(type) {
	case string:
		return neutral(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case time.Time:
		if !v.IsZero() {
			return v.UTC().Format(time.RFC3339Nano)
		}
	}
	return ""
}

// neutral makes a text harmless that a spreadsheet would run as a formula: one
// that begins with = + - @, their full-width forms, TAB, CR or LF gets an
// apostrophe in front (OWASP, CSV Injection). devices.jsonl has the bare value.
func neutral(s string) string {
	if s == "" {
		return s
	}
	for _, p := range []string{"=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"} {
		if strings.HasPrefix(s, p) {
			return "'" + s
		}
	}
	return s
}
