package files

import (
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// SafeName makes a value fit for a file name on any file system that images
// are carried on: whatever is not a letter, digit, dot, dash or underscore
// becomes a dash, and it does not begin with a dot or a dash.
func SafeName(value string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '-'
	}, value)
	if safe == "" || safe[0] == '.' || safe[0] == '-' {
		safe = "_" + safe
	}
	const longest = 128 // a file name has 255 bytes; leave room for what formats add
	return safe[:min(len(safe), longest)]
}

// SafeLot makes a value fit to name a lot: letters and digits of all scripts, dot,
// dash and underscore stay, in one normal form, so that one name typed on two
// keyboards is one lot. All else becomes a dash, and it does not begin with a dot
// or a dash.
func SafeLot(value string) string {
	safe := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, norm.NFC.String(value))
	if safe == "" || safe[0] == '.' || safe[0] == '-' {
		safe = "_" + safe
	}
	const longest = 128 // a file name has 255 bytes; leave room for what is added
	for len(safe) > longest {
		_, size := utf8.DecodeLastRuneInString(safe)
		safe = safe[:len(safe)-size]
	}
	return safe
}

// LotName is the name of a manifest's lot unless --lot gives another.
func LotName(manifest string) string {
	base := filepath.Base(manifest)
	return SafeLot(strings.TrimSuffix(base, filepath.Ext(base)))
}
