// Package pipeline carries the devices of a production lot from a manifest row
// to a released image: one worker takes one device through one straight
// function and commits after each step, so that resuming is starting at the
// recorded state. The package declares the small interfaces that it needs
// (a ledger, a source of keys, images, a server) and imports none of the
// packages that implement them.
package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Attr is one named value of a device. Both are strings: the Mender server
// passes JSON numbers through float64, where two large ones can become one.
type Attr struct {
	Name  string
	Value string
}

// Identity is the set of key-value pairs that the Mender server knows a device
// by. The order is that of the configuration: the first value names the
// device's files. Two identities are the same when their Sum is.
type Identity []Attr

// IdentitySum is the SHA-256 of an identity's canonical JSON. The server
// compares identities by the same hash.
type IdentitySum [sha256.Size]byte

// String returns the sum in hexadecimal.
func (s IdentitySum) String() string { return hex.EncodeToString(s[:]) }

// JSON returns the identity as the server hashes it: one compact JSON object,
// names sorted, values as strings.
func (id Identity) JSON() []byte { return MarshalSorted(id) }

// sortedAttrs returns the identity's pairs sorted by name.
func sortedAttrs(id Identity) []Attr {
	if len(id) < 2 {
		return id
	}
	sorted := slices.Clone(id)
	SortAttrs(sorted)
	return sorted
}

// SortAttrs sorts attributes by name, as an event's facts must be.
func SortAttrs(attrs []Attr) {
	slices.SortFunc(attrs, func(a, b Attr) int { return strings.Compare(a.Name, b.Name) })
}

// Sum returns the SHA-256 of JSON.
func (id Identity) Sum() IdentitySum { return sha256.Sum256(id.JSON()) }

// Name returns the identity's first value, which people know the device by.
// It is empty for an empty identity.
func (id Identity) Name() string {
	if len(id) == 0 {
		return ""
	}
	return id[0].Value
}

// String returns the pairs as "mac=02:12:61:13:6c:42, serial=1928819".
func (id Identity) String() string {
	var b strings.Builder
	for i, a := range id {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.Name + "=" + a.Value)
	}
	return b.String()
}

// MarshalAttrs returns attributes as one JSON object in their own order, the
// form in which a ledger keeps them. UnmarshalAttrs is its inverse.
func MarshalAttrs(attrs []Attr) []byte { return appendAttrs(nil, attrs) }

// MarshalSorted returns attributes as canonical JSON (RFC 8785): sorted by name.
func MarshalSorted(attrs []Attr) []byte { return appendAttrs(nil, sortedAttrs(attrs)) }

// UnmarshalAttrs reads a JSON object of strings and keeps the order of its
// members.
func UnmarshalAttrs(data []byte) ([]Attr, error) {
	if attrs, ok := plainAttrs(string(data)); ok {
		return attrs, nil
	}
	return decodeAttrs(data)
}

func decodeAttrs(data []byte) ([]Attr, error) {
	dec := json.NewDecoder(strings.NewReader(string(data)))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, fmt.Errorf("attributes are not a JSON object: %.40q", data)
	}
	var attrs []Attr
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("attributes: %w", err)
		}
		var value string
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("attribute %v: %w", name, err)
		}
		attrs = append(attrs, Attr{Name: name.(string), Value: value})
	}
	return attrs, nil
}

// plainAttrs reads what MarshalAttrs writes, at a tenth of the cost, as long as
// nothing in it is escaped. It says false for everything else.
func plainAttrs(s string) ([]Attr, bool) {
	if len(s) < 2 || s[0] != '{' || s[len(s)-1] != '}' || !utf8.ValidString(s) {
		return nil, false
	}
	s = s[1 : len(s)-1]
	var attrs []Attr
	if n := strings.Count(s, `":"`); n > 0 {
		attrs = make([]Attr, 0, n)
	}
	for s != "" {
		name, rest, ok := plainString(s)
		if !ok || rest == "" || rest[0] != ':' {
			return nil, false
		}
		value, rest, ok := plainString(rest[1:])
		if !ok || rest != "" && (rest[0] != ',' || len(rest) == 1) {
			return nil, false
		}
		attrs = append(attrs, Attr{Name: name, Value: value})
		s = strings.TrimPrefix(rest, ",")
	}
	return attrs, true
}

// plainString splits a JSON string without escapes from what follows it.
func plainString(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[1:i], s[i+1:], true
		case c == '\\' || c < 0x20:
			return "", "", false
		}
	}
	return "", "", false
}

// Device is one manifest row.
type Device struct {
	// Row is the row's number in the manifest as a spreadsheet counts it: the
	// header is row 1, the first device row 2.
	Row int
	// Identity is what the server will know the device by.
	Identity Identity
	// Attrs holds all mapped columns, those of the identity included, in the
	// manifest's order and normalised.
	Attrs []Attr
}

// Attr returns the value of the named attribute, and whether the device has it.
func (d *Device) Attr(name string) (string, bool) {
	for _, a := range d.Attrs {
		if a.Name == name {
			return a.Value, true
		}
	}
	return "", false
}
