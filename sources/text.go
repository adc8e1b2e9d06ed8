package sources

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// flaw is something wrong with a value.
type flaw struct {
	what, remedy string
	warning      bool
}

// textFlaw returns what is wrong with a value as text, whatever it means. The
// server compares values byte by byte: what cannot be seen makes a device that
// never matches.
func textFlaw(v string, identity bool) *flaw {
	ascii := true
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c < 0x20 || c == 0x7f {
			return controlFlaw(v)
		}
		if c >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		if v[0] == ' ' || v[len(v)-1] == ' ' {
			return padded
		}
	} else if f := unicodeFlaw(v, identity); f != nil {
		return f
	}
	return nil
}

var padded = &flaw{what: "the value has spaces at its ends", remedy: "remove the spaces: the server would take them for part of the value"}

var guarded = flaw{what: "the value begins with the apostrophe that makes a spreadsheet take it for text", remedy: "remove the apostrophe"}

// broken reports whether v has line breaks and is sound otherwise.
func broken(v string) bool {
	return strings.Contains(v, "\n") && strings.IndexFunc(strings.ReplaceAll(strings.ReplaceAll(v, "\r\n", ""), "\n", ""), unicode.IsControl) < 0
}

func controlFlaw(v string) *flaw {
	trimmed := strings.TrimSpace(v)
	switch {
	case strings.ContainsRune(v, 0):
		return &flaw{what: "the value has a NUL byte", remedy: "the file is damaged or not text: export it again, as CSV UTF-8"}
	case trimmed != v && strings.IndexFunc(trimmed, unicode.IsControl) < 0:
		return padded
	case strings.ContainsAny(v, "\r\n"):
		return &flaw{what: "the value has a line break", remedy: "write it on one line; or a quote is missing here or in a row above"}
	}
	return &flaw{what: "the value has control characters", remedy: "type the value again"}
}

// unicodeFlaw is textFlaw for values with more than ASCII.
func unicodeFlaw(v string, identity bool) *flaw {
	if !utf8.ValidString(v) {
		return &flaw{what: "the value is not UTF-8", remedy: "save the file as CSV UTF-8 (Excel: file type \"CSV UTF-8\")"}
	}
	if strings.ContainsRune(v, utf8.RuneError) {
		return &flaw{what: "the value has characters that an earlier conversion destroyed (U+FFFD)", remedy: "export the file again, as CSV UTF-8"}
	}
	if strings.TrimSpace(v) != v {
		return padded
	}
	for _, r := range v {
		switch {
		case unicode.IsControl(r):
			return controlFlaw(v)
		case unicode.Is(unicode.Cf, r) || r != ' ' && unicode.IsSpace(r):
			return &flaw{what: fmt.Sprintf("the value has characters that cannot be seen (%U)", r), remedy: "type the value again", warning: !identity}
		}
	}
	if identity {
		return &flaw{what: "the value has letters that are not ASCII", remedy: "make sure that the device reports exactly these", warning: true}
	}
	return nil
}
