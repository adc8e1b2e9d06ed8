package sources

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"keymill/pipeline"
)

// Problem is one thing wrong with a manifest, or worth a look.
type Problem struct {
	// Row is the row's number as a spreadsheet counts: the header is row 1. 0
	// for what concerns the whole file.
	Row int `json:"row"`
	// Column is the header's text, Cell the reference as in a spreadsheet
	// ("B7"). Both are empty for what concerns a whole row.
	Column string `json:"column,omitempty"`
	Cell   string `json:"cell,omitempty"`
	// Value is the offending value, fit to be shown: control characters
	// escaped, long values (which may be keys) cut.
	Value string `json:"value,omitempty"`
	// What says what is wrong, Remedy what to do about it.
	What   string `json:"what"`
	Remedy string `json:"remedy"`
	// Warning marks what does not refuse the manifest.
	Warning bool `json:"warning,omitempty"`
}

// String returns the problem on one line.
func (p Problem) String() string {
	var b strings.Builder
	if p.Warning {
		b.WriteString("warning: ")
	}
	if p.Row > 0 {
		b.WriteString("row " + strconv.Itoa(p.Row))
		if p.Column != "" {
			b.WriteString(", column " + strconv.Quote(p.Column))
		}
		if p.Value != "" {
			b.WriteString(", value " + strconv.Quote(p.Value))
		}
		b.WriteString(": ")
	}
	b.WriteString(p.What)
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// Column says what became of one of the manifest's columns.
type Column struct {
	Header    string `json:"header"`              // as in the file
	Attribute string `json:"attribute,omitempty"` // empty: ignored
	Guessed   bool   `json:"guessed,omitempty"`   // not named by the configuration
	Identity  bool   `json:"identity,omitempty"`
	// MAC says why the values are checked and written as MAC addresses: "name"
	// or "values". Empty where they are not.
	MAC string `json:"mac,omitempty"`
	// Unique: no two devices may have the same value.
	Unique bool `json:"unique,omitempty"`
}

// Summary is the outcome of a check.
type Summary struct {
	Rows     int      `json:"rows"`     // device rows, refused ones included
	Problems int      `json:"problems"` // these refuse the manifest
	Warnings int      `json:"warnings"` // these do not
	SHA256   string   `json:"sha256"`   // of the file's bytes, hexadecimal; empty if not read to the end
	Columns  []Column `json:"columns"`
	Identity []string `json:"identity"` // attribute names
	Unique   []string `json:"unique"`   // attributes of which no two devices may have the same value
	// Lot is the lot whose failures this file lists, if it is keymill's own
	// failures.csv; else empty.
	Lot string `json:"lot,omitempty"`
}

// RefusedError says that a file is no acceptable manifest. pipeline.Hint tells
// what to do.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

func refuse(reason, hint string, args ...any) error {
	return pipeline.WithHint(&RefusedError{reason}, hint, args...)
}

// Refused reports whether err says that the manifest itself is at fault.
func Refused(err error) bool {
	_, ok := errors.AsType[*RefusedError](err)
	return ok
}

// maxShown is the length in characters up to which values are shown whole:
// UUIDs and eMMC CIDs are shorter, the lines of a PEM file are longer.
const maxShown = 40

// shown makes a value fit for messages and logs: it may be a private key, or
// hold terminal escapes.
func shown(v string) string {
	if n := utf8.RuneCountInString(v); n > maxShown {
		return fmt.Sprintf("%s… (%d characters)", escapeControls(firstRunes(v, 12)), n)
	}
	return escapeControls(v)
}

func firstRunes(v string, n int) string {
	for i := range v {
		if n == 0 {
			return v[:i]
		}
		n--
	}
	return v
}

func escapeControls(v string) string {
	if utf8.ValidString(v) && strings.IndexFunc(v, unprintable) < 0 {
		return v
	}
	q := strconv.QuoteToGraphic(v)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

func unprintable(r rune) bool { return r != ' ' && !unicode.IsPrint(r) }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
