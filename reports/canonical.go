package reports

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// canon reads a JSON text and refuses what is not in the form of RFC 8785 as far
// as events need it: no white space, every object's names in strictly ascending
// order (so none twice), strings escaped in the one way, integers only.
type canon struct {
	in string
	at int
}

// whole checks that what read takes is all there is.
func (c *canon) whole(read func() error) error {
	if err := read(); err != nil {
		return fmt.Errorf("not canonical JSON at byte %d: %w", c.at, err)
	}
	if c.at != len(c.in) {
		return fmt.Errorf("not canonical JSON: %d bytes follow the value", len(c.in)-c.at)
	}
	return nil
}

func (c *canon) take(b byte) bool {
	if c.at < len(c.in) && c.in[c.at] == b {
		c.at++
		return true
	}
	return false
}

func (c *canon) value(depth int) error {
	switch {
	case depth > 8:
		return errors.New("nested too deep")
	case c.at < len(c.in) && c.in[c.at] == '{':
		return c.members(func(string) error { return c.value(depth + 1) })
	case c.at < len(c.in) && c.in[c.at] == '"':
		_, err := c.text()
		return err
	}
	return c.integer()
}

// members takes an object. value is called with each member's name, as it is
// written, and takes its value.
func (c *canon) members(value func(name string) error) error {
	if !c.take('{') {
		return errors.New("no object")
	}
	if c.take('}') {
		return nil
	}
	for last, first := "", true; ; first = false {
		name, err := c.text()
		if err != nil {
			return err
		}
		if !first && !ascending(last, name) {
			return fmt.Errorf("name %.40q is out of order", name)
		}
		last = name
		if !c.take(':') {
			return errors.New("no colon")
		}
		if err := value(name); err != nil {
			return err
		}
		if c.take('}') {
			return nil
		}
		if !c.take(',') {
			return errors.New("no comma")
		}
	}
}

// ascending compares two names as they are written. Events sort names by bytes;
// RFC 8785, section 3.2.3 sorts by UTF-16 units, which differs only where
// characters beyond U+FFFF meet those from U+E000: no name of ours.
func ascending(a, b string) bool {
	return unescape(a) < unescape(b)
}

// unescape returns what a string means that text has taken.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var raw string
	if json.Unmarshal([]byte(`"`+s+`"`), &raw) != nil {
		return s
	}
	return raw
}

// integer takes a number as events have it: no fraction, no exponent.
func (c *canon) integer() error {
	start := c.at
	c.take('-')
	digits := c.at
	for c.at < len(c.in) && c.in[c.at] >= '0' && c.in[c.at] <= '9' {
		c.at++
	}
	switch n := c.in[digits:c.at]; {
	case n == "":
		return errors.New("neither an object, a string nor an integer")
	case n[0] == '0' && (len(n) > 1 || digits > start), len(n) > 16:
		return fmt.Errorf("number %.20q", c.in[start:c.at])
	}
	return nil
}

// text takes a string and returns it as it is written.
func (c *canon) text() (string, error) {
	if !c.take('"') {
		return "", errors.New("no string")
	}
	start := c.at
	for c.at < len(c.in) {
		b := c.in[c.at]
		switch {
		case b == '"':
			c.at++
			return c.in[start : c.at-1], nil
		case b == '\\':
			if err := c.escape(); err != nil {
				return "", err
			}
		case b < 0x20:
			return "", errors.New("a control character")
		case b < utf8.RuneSelf:
			c.at++
		default:
			r, n := utf8.DecodeRuneInString(c.in[c.at:])
			if r == utf8.RuneError && n == 1 {
				return "", errors.New("not UTF-8")
			}
			c.at += n
		}
	}
	return "", errors.New("a string that does not end")
}

// escape takes one escape; RFC 8785, section 3.2.2.2 allows each character one
// form only.
func (c *canon) escape() error {
	rest := c.in[c.at:]
	if len(rest) >= 2 && strings.IndexByte(`"\bfnrt`, rest[1]) >= 0 {
		c.at += 2
		return nil
	}
	if len(rest) >= 6 && (strings.HasPrefix(rest, `\u000`) || strings.HasPrefix(rest, `\u001`)) {
		const short = "89acd" // \b \t \n \f \r have names
		digit := rest[5]
		if strings.IndexByte("0123456789abcdef", digit) >= 0 && (rest[4] == '1' || strings.IndexByte(short, digit) < 0) {
			c.at += 6
			return nil
		}
	}
	return errors.New("an escape that is not the canonical one")
}
