package operator

import (
	"fmt"
	"strings"
	"unicode"
)

// calibration is the text of the barcode that shows how the computer's keyboard
// layout and the scanner fit together: every key that codes need, with and without
// shift. Its beginning is a pattern of equal and unequal characters that nothing
// else has.
const calibration = "0011001100" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "123456789" + "azyqwm" + "-._/:;+()]"

// layout maps characters as they arrive to those that the code has.
type layout struct {
	arrives map[rune]rune // by what arrives; nil: nothing to undo
	folded  bool          // capital letters arrive as small ones
}

// undo returns a text as the barcode has it.
func (l *layout) undo(s string) string {
	if l == nil || l.arrives == nil {
		return s
	}
	return strings.Map(func(r rune) rune {
		if meant, ok := l.arrives[r]; ok {
			return meant
		}
		return r
	}, s)
}

// looksLikeCalibration reports whether a text is the calibration barcode, however
// the keyboard has garbled it: the same length and the same repetitions.
func looksLikeCalibration(raw string) bool {
	got := []rune(strings.Trim(raw, " \t\r\n"))
	want := []rune(calibration)
	if len(got) != len(want) {
		return false
	}
	zero, one := got[0], got[2]
	if zero == one {
		return false
	}
	for i := range 10 {
		expect := zero
		if want[i] == '1' {
			expect = one
		}
		if got[i] != expect {
			return false
		}
	}
	return true
}

// calibrate learns a layout from the calibration barcode as it arrived. said is
// for people; a layout in which two keys become one cannot be undone.
func calibrate(raw string) (l *layout, said string, err error) {
	got, want := []rune(strings.Trim(raw, " \t\r\n")), []rune(calibration)
	arrives, straight := map[rune]rune{}, true
	folded := false
	clash := ""
	for i, r := range got {
		w := want[i]
		straight = straight && r == w
		if was, ok := arrives[r]; ok && was != w {
			if unicode.ToLower(was) == unicode.ToLower(w) {
				folded = true
				continue
			}
			clash = fmt.Sprintf("%q and %q both arrive as %q", was, w, r)
		}
		arrives[r] = w
	}
	switch {
	case straight:
		return &layout{}, "The scanner reads well.", nil
	case clash != "":
		return nil, "", fmt.Errorf("%s: set the scanner to this computer's keyboard layout", clash)
	}
	// Letters whose small form is not in the barcode follow their capital.
	for _, pair := range pairs(arrives) {
		if _, ok := arrives[pair[0]]; !ok {
			arrives[pair[0]] = pair[1]
		}
	}
	if folded {
		return &layout{folded: true}, "Capital letters arrive as small ones; the station reads both alike.", nil
	}
	return &layout{arrives: arrives}, "The keyboard layout differs from the scanner's; the station corrects it.", nil
}

func pairs(arrives map[rune]rune) [][2]rune {
	var out [][2]rune
	for r, w := range arrives {
		if unicode.IsUpper(r) && unicode.IsUpper(w) {
			out = append(out, [2]rune{unicode.ToLower(r), unicode.ToLower(w)})
		}
		if unicode.IsLower(r) && unicode.IsUpper(w) { // caps lock
			out = append(out, [2]rune{unicode.ToUpper(r), unicode.ToLower(w)})
		}
	}
	return out
}

// wrongLayouts are what a scanner that speaks US produces on other keyboards, for
// telling the operator what is wrong before anything was calibrated.
var wrongLayouts = []*layout{
	{arrives: swapped("yzYZ", "zyZY", "ß-", "-/", "öÖ", ";:")},
	{arrives: swapped("qaQAwzWZ", "aqAQzwZW", "&é\"'(-è_çà", "1234567890")},
}

func swapped(parts ...string) map[rune]rune {
	m := map[rune]rune{}
	for i := 0; i+1 < len(parts); i += 2 {
		from, to := []rune(parts[i]), []rune(parts[i+1])
		for k := range min(len(from), len(to)) {
			m[from[k]] = to[k]
		}
	}
	return m
}
