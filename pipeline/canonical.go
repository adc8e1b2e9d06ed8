package pipeline

import (
	"strconv"
	"unicode/utf8"
)

// appendAttrs appends attrs as a compact JSON object in their own order.
func appendAttrs(dst []byte, attrs []Attr) []byte {
	dst = append(dst, '{')
	for i, a := range attrs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, a.Name)
		dst = append(dst, ':')
		dst = appendString(dst, a.Value)
	}
	return append(dst, '}')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string in the form of RFC 8785 (JCS),
// section 3.2.2.2: only what must be escaped is, and in one way only.
// Invalid UTF-8 becomes U+FFFD, as encoding/json does.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0 // from here to i nothing needs a second look
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[plain:i]...)
		if c < utf8.RuneSelf {
			dst = appendASCII(dst, c)
			i++
		} else {
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
		}
		plain = i
	}
	return append(append(dst, s[plain:]...), '"')
}

func appendASCII(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\t':
		return append(dst, '\\', 't')
	case '\n':
		return append(dst, '\\', 'n')
	case '\f':
		return append(dst, '\\', 'f')
	case '\r':
		return append(dst, '\\', 'r')
	}
	if c < 0x20 {
		return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(dst, c)
}

// object builds a canonical JSON object (RFC 8785) member by member. Members
// must be added in the order of their names; empty strings and zero numbers
// are left out.
type object struct{ buf []byte }

func (o *object) name(name string) {
	if len(o.buf) == 0 {
		o.buf = append(o.buf, '{')
	} else {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, name...) // ours: nothing in it needs escaping
	o.buf = append(o.buf, '"', ':')
}

func (o *object) str(name, value string) {
	if value != "" {
		o.name(name)
		o.buf = appendString(o.buf, value)
	}
}

// num appends an integer; RFC 8785 wants numbers that a double holds exactly,
// so callers keep them below 2^53.
func (o *object) num(name string, value int64) {
	if value != 0 {
		o.name(name)
		o.buf = strconv.AppendInt(o.buf, value, 10)
	}
}

func (o *object) attrs(name string, attrs []Attr) {
	if len(attrs) > 0 {
		o.name(name)
		o.buf = appendAttrs(o.buf, attrs)
	}
}

func (o *object) bytes() []byte {
	if len(o.buf) == 0 {
		return []byte("{}")
	}
	return append(o.buf, '}')
}
