package sources

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// richText appends to buf the text of an <is> or <si> element whose start tag
// was just read: that of its <t> and of the <t> of its runs (ECMA-376 part 1,
// 18.4.8). Phonetic runs (<rPh>) say how a text is pronounced and are no part of
// it. strange reports an escape that no writer needs, see unescape.
func (x *xmlScan) richText(buf []byte) (_ []byte, strange bool, err error) {
	if x.end {
		return buf, false, nil
	}
	level := x.level
	inRun := false
	for {
		if err := x.next(); err != nil {
			return nil, false, err
		}
		if !x.blank() {
			return nil, false, errors.New("it has text outside of <t>")
		}
		switch {
		case !x.start && x.level == level:
			return buf, strange, nil
		case !x.start: // the end of a run
			inRun = false
		case string(x.name) == "t":
			var odd bool
			if buf, odd, err = x.textElement(buf); err != nil {
				return nil, false, err
			}
			strange = strange || odd
		case !inRun && string(x.name) == "r":
			inRun = !x.end
		case string(x.name) == "rPh" || string(x.name) == "rPr" || string(x.name) == "phoneticPr" || string(x.name) == "extLst":
			if err := x.skip(); err != nil {
				return nil, false, err
			}
		default:
			return nil, false, fmt.Errorf("it has an unknown element %.20q in a text", x.name)
		}
	}
}

// textElement appends the text of the element whose start tag was just read,
// its escapes replaced.
func (x *xmlScan) textElement(buf []byte) (_ []byte, strange bool, err error) {
	if x.end {
		return buf, false, nil
	}
	name := string(x.name)
	if err := x.next(); err != nil {
		return nil, false, err
	}
	if x.start {
		return nil, false, fmt.Errorf("it has an element %.20q inside <%s>", x.name, name)
	}
	return unescape(buf, x.text)
}

// unescape appends text with its _xHHHH_ escapes replaced, by which characters
// are written that XML cannot hold (ECMA-376 part 1, 22.9.2.19, ST_Xstring);
// _x005F_ is the underscore before what would be taken for an escape. strange
// reports an escape for a character that needs none: some writers forget to
// escape the text "_x0041_" itself, so nobody can tell what was meant.
func unescape(buf, text []byte) (_ []byte, strange bool, err error) {
	if !bytes.Contains(text, []byte("_x")) {
		return append(buf, text...), false, nil
	}
	for s := string(text); ; {
		i := strings.Index(s, "_x")
		if i < 0 {
			return append(buf, s...), strange, nil
		}
		unit, ok := escape(s[i:])
		if !ok {
			buf = append(buf, s[:i+2]...)
			s = s[i+2:]
			continue
		}
		buf, s = append(buf, s[:i]...), s[i+7:]
		r := rune(unit)
		if utf16.IsSurrogate(r) {
			low, ok := escape(s)
			if r = utf16.DecodeRune(r, rune(low)); ok && r != utf8.RuneError {
				s = s[7:]
			}
		}
		if _, follows := escape("_" + s); r == '_' {
			strange = strange || !follows
		} else {
			strange = strange || r >= ' ' && r < 0xd800 && r != 0x7f
		}
		buf = utf8.AppendRune(buf, r)
	}
}

// escape reads an escape at the beginning of s.
func escape(s string) (uint16, bool) {
	if len(s) < 7 || s[:2] != "_x" || s[6] != '_' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return uint16(n), err == nil && s[2] != '+'
}
