package sources

import (
	"strings"
	"unicode"
)

// unguard takes off what people put around a value so that a spreadsheet leaves
// it alone: ="00123".
func unguard(v string) (string, bool) {
	inner, ok := strings.CutPrefix(v, `="`)
	if !ok || !strings.HasSuffix(inner, `"`) {
		return v, false
	}
	inner = inner[:len(inner)-1]
	plain := strings.ReplaceAll(inner, `""`, "\x00")
	if strings.Contains(plain, `"`) {
		return v, false
	}
	return strings.ReplaceAll(plain, "\x00", `"`), true
}

// apostrophe reports whether a value begins with the apostrophe that makes a
// spreadsheet take what follows for text: it is typed in, and belongs to the
// file only where a program exported it by mistake. wide counts letters as what
// may follow it; else only digits and what begins a formula.
func apostrophe(v string, wide bool) bool {
	if len(v) < 2 || v[0] != '\'' {
		return false
	}
	if strings.IndexByte(formulaStarts, v[1]) >= 0 {
		return true
	}
	if wide {
		return v[1] != '\'' && v[1] != ' '
	}
	return strings.Trim(v[1:], "0123456789.,") == ""
}

// formulaError reports whether a value is what spreadsheets write for a formula
// that failed, in whatever language: #N/A, #REF!, #NAME?, #NV, #¡VALOR!, Err:502,
// and ##### for a column that is too narrow.
func formulaError(v string) bool {
	if rest, ok := strings.CutPrefix(v, "Err:"); ok {
		return len(rest) == 3 && strings.Trim(rest, "0123456789") == ""
	}
	rest, ok := strings.CutPrefix(v, "#")
	if !ok || rest == "" {
		return false
	}
	switch rest {
	case "N/A", "NV", "N/D", "N/V", "NB", "N/C", "GETTING_DATA":
		return true
	}
	if strings.Trim(rest, "#") == "" {
		return len(rest) >= 2
	}
	end := rest[len(rest)-1]
	return (end == '!' || end == '?') && len(rest) > 2 && strings.IndexFunc(rest[:len(rest)-1], func(r rune) bool {
		return !unicode.IsUpper(r) && r != '/' && r != '0' && r != '_' && r != '¡' && r != '¿' && r != ' '
	}) < 0
}

// scientific reports whether v may be what spreadsheets and R make of long
// numbers: 1.23457E+11, 1,23457E11, 1e+09. sure is false for forms that other
// values have, too, such as 5E10 among hexadecimal numbers.
func scientific(v string) (may, sure bool) {
	rest := strings.TrimLeft(v, "+-")
	if len(v)-len(rest) > 1 {
		return false, false
	}
	i := strings.IndexAny(rest, "eE")
	if i < 1 {
		return false, false
	}
	exponent := rest[i+1:]
	unsigned := strings.TrimLeft(exponent, "+-")
	signed := len(exponent) - len(unsigned)
	if signed > 1 || len(unsigned) < 1 || len(unsigned) > 3 || strings.Trim(unsigned, "0123456789") != "" {
		return false, false
	}
	whole, fraction := rest[:i], ""
	if at := strings.IndexAny(whole, ".,"); at >= 0 {
		whole, fraction = whole[:at], whole[at+1:]
		if fraction == "" || strings.Trim(fraction, "0123456789") != "" {
			return false, false
		}
	}
	if whole == "" || len(whole) > 3 || strings.Trim(whole, "0123456789") != "" || fraction == "" && len(whole) > 1 {
		return false, false
	}
	return true, signed == 1 || len(fraction) > 2 || fraction != "" && strings.Contains(rest, ",")
}

// numeric reports whether a value is made of digits, perhaps with a sign and
// separators, and whether an e or E is all that is among them.
func numeric(v string) (number, exponent bool) {
	digits := false
	for i := range len(v) {
		switch c := v[i]; {
		case '0' <= c && c <= '9':
			digits = true
		case c == '.' || c == ',' || c == '-' || c == '+' || c == ' ':
		case c == 'e' || c == 'E':
			exponent = true
		default:
			return false, false
		}
	}
	return digits && !exponent, digits && exponent
}
