package operator

import (
	"strings"
	"unicode"
)

// gs is the group separator, which scanners send for FNC1 within a GS1 code.
const gs = '\x1d'

// reading is what a scan says, with what keyboards and scanners do to it undone.
type reading struct {
	text    string   // trimmed, without an AIM prefix
	options []string // what it may mean, most likely first: text is the first
}

// read takes a scan apart. lay undoes a wrong keyboard layout.
func read(raw string, lay *layout) reading {
	text := strings.Trim(raw, " \t\r\n\x00\x02\x03\x04")
	text = lay.undo(text)
	text = withoutAIM(text)
	text = strings.Trim(text, string(gs)+" ")
	text = strings.Map(func(r rune) rune {
		if r != gs && unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
	r := reading{text: text}
	add := func(option string) {
		if option == "" {
			return
		}
		for _, known := range r.options {
			if known == option {
				return
			}
		}
		r.options = append(r.options, option)
	}
	add(text)
	add(half(text))
	for _, base := range []string{text, half(text)} {
		for _, serial := range serialsIn(base) {
			add(serial)
		}
	}
	for _, option := range r.options[:len(r.options):len(r.options)] {
		add(strings.ToUpper(option))
	}
	return r
}

// withoutAIM removes an AIM symbology identifier: ] , a letter and a digit
// (ISO/IEC 15424).
func withoutAIM(s string) string {
	if len(s) > 3 && s[0] == ']' && isLetter(s[1]) && isDigit(s[2]) {
		return s[3:]
	}
	return s
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// half returns the first half of a text that says everything twice: the scanner
// read a code twice before it sent Enter.
func half(s string) string {
	n := len(s) / 2
	if n > 0 && s[:n] == s[n:] {
		return withoutAIM(s[:n])
	}
	// A prefix stands before both.
	if i := strings.LastIndexByte(s, ']'); i > 0 && withoutAIM(s[i:]) == s[:i] {
		return s[:i]
	}
	return ""
}

// serialsIn returns the serial numbers that a GS1 code may hold: element strings
// that begin (01)GTIN(21)serial, or a Digital Link. Where the scanner swallows GS,
// nothing tells where the serial number ends; the longest one comes first.
func serialsIn(s string) []string {
	if _, after, ok := strings.Cut(s, "/21/"); ok && strings.Contains(s, "://") {
		serial, _, _ := strings.Cut(after, "?")
		serial, _, _ = strings.Cut(serial, "/")
		return []string{serial}
	}
	plain := strings.NewReplacer("(01)", "01", "(21)", "21").Replace(s)
	if len(plain) < 19 || plain[:2] != "01" || strings.Trim(plain[2:16], "0123456789") != "" || plain[16:18] != "21" {
		return nil
	}
	serial, _, separated := strings.Cut(plain[18:], string(gs))
	options := []string{serial}
	if separated {
		return options
	}
	// What follows would be another application identifier: two digits at least.
	for n := min(len(serial)-3, 20); n > 0; n-- {
		if isDigit(serial[n]) && isDigit(serial[n+1]) {
			options = append(options, serial[:n])
		}
	}
	return options
}

// sameLabel compares a scan with a printed code: GS may be swallowed, prefixes and
// parentheses may be there, letters may have lost their shift.
func sameLabel(r reading, printed string) bool {
	for _, text := range []string{r.text, half(r.text)} {
		if text != "" && strings.EqualFold(codeKey(text), codeKey(printed)) {
			return true
		}
	}
	return false
}

func codeKey(s string) string {
	s = strings.ReplaceAll(withoutAIM(strings.TrimSpace(s)), string(gs), "")
	if strings.HasPrefix(s, "(01)") {
		s = strings.NewReplacer("(01)", "01", "(21)", "21", "(250)", "250").Replace(s)
	}
	return s
}

// command returns the command that a text stands for, and its argument: SLOT 2.
func (r reading) command() (name, arg string) {
	for _, text := range []string{r.text, half(r.text)} {
		upper := strings.ToUpper(strings.TrimSpace(text))
		if commands[upper] {
			return upper, ""
		}
		for _, with := range []string{cmdSlot, cmdReason, cmdLearn, cmdDrop} {
			rest, ok := strings.CutPrefix(upper, with)
			if !ok || rest == "" {
				continue
			}
			// The name is taken as it was written; separators are free.
			at := len(strings.TrimSpace(text)) - len(rest)
			return with, strings.Trim(strings.TrimSpace(text)[at:], " -.:")
		}
	}
	return "", ""
}

// The commands, which are barcodes of these texts.
const (
	cmdAck        = "ACK"
	cmdDone       = "DONE"
	cmdNext       = "NEXT"
	cmdReprint    = "REPRINT"
	cmdCancel     = "CANCEL"
	cmdEnd        = "END"
	cmdSupervisor = "SUPERVISOR"
	cmdScrap      = "SCRAP"
	cmdSlot       = "SLOT"   // SLOT 1
	cmdReason     = "REASON" // REASON 2
	cmdLearn      = "LEARN"  // LEARN 1
	cmdDrop       = "FREE"   // FREE 1
)

var commands = map[string]bool{
	cmdAck: true, cmdDone: true, cmdNext: true, cmdReprint: true, cmdCancel: true, cmdEnd: true,
	cmdSupervisor: true, cmdScrap: true,
}
