package reports

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/code128"
	"github.com/boombuler/barcode/datamatrix"
	"github.com/boombuler/barcode/qr"
)

// gs separates element strings of variable length where a scanner reads them
// (GS1 General Specifications, 7.8.6.2).
const gs = "\x1d"

// gs1Chars are the characters that a serial number (AI 21) may have: GS1
// General Specifications, figure 7.11-1, character set 82.
const gs1Chars = `!"%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz`

// fullGTIN fills a GTIN up to 14 digits and checks its check digit.
func fullGTIN(gtin string) (string, error) {
	if gtin == "" {
		return "", nil
	}
	n := len(gtin)
	if strings.Trim(gtin, "0123456789") != "" || n != 8 && n != 12 && n != 13 && n != 14 {
		return "", labelError("Set label.gtin to the number below the article's EAN or UPC code.", "the GTIN %q has not 8, 12, 13 or 14 digits", gtin)
	}
	full := strings.Repeat("0", 14-n) + gtin
	sum := 0
	for i, c := range full[:13] {
		sum += int(c-'0') * (3 - 2*(i%2))
	}
	if check := (10 - sum%10) % 10; int(full[13]-'0') != check {
		return "", labelError("Look for a mistyped digit.", "the GTIN %q has the check digit %c, but %d belongs there", gtin, full[13], check)
	}
	return full, nil
}

// serialOf returns what the code names the device by.
func (l *Labels) serialOf(unit LabelUnit) (string, error) {
	if name := l.opt.Serial; name != "" {
		if value, ok := unit.Device.Attr(name); ok && value != "" {
			return value, nil
		}
		return "", labelError("Complete the manifest, or set label.serial to another attribute.", "%s has no %s, so it gets no label", unit.Device.Identity, name)
	}
	if value, ok := unit.Device.Attr("serial"); ok && value != "" {
		return value, nil
	}
	if len(unit.Device.Identity) == 0 || unit.Device.Identity[0].Value == "" {
		return "", labelError("Complete the manifest.", "row %d has neither a serial number nor an identity", unit.Device.Row)
	}
	return unit.Device.Identity[0].Value, nil
}

// code returns what the label says to a scanner. It always differs from the
// sticker that the unit came with, and from the label of an earlier unit, so
// that scanning one of these confirms nothing: the unit's number makes the
// difference, as AI 250 (secondary serial number) in GS1's contents.
func (l *Labels) code(unit LabelUnit) (string, error) {
	serial, err := l.serialOf(unit)
	if err != nil {
		return "", err
	}
	for _, c := range serial {
		if c < 0x20 || c > 0x7e {
			return "", labelError("Set label.serial to another attribute.", "the code cannot hold %q, as it is not plain ASCII", serial)
		}
	}
	if l.opt.Content == ContentPlain {
		return fmt.Sprintf("%s.U%d", serial, unit.Number), nil
	}
	if len(serial) > 20 || strings.Trim(serial, gs1Chars) != "" {
		return "", labelError("Set label.content to plain, or label.serial to another attribute.",
			"%q is no serial number of GS1: 20 characters at most, no spaces and none of # $ @ [ \\ ] ^ ` { | } ~", serial)
	}
	short, long := l.gs1Codes(serial, unit.Number)
	if unit.Again || sameCode(unit.Sticker, short) {
		return long, nil
	}
	return short, nil
}

// gs1Codes returns the content without and with the unit's number.
func (l *Labels) gs1Codes(serial string, number int) (short, long string) {
	if l.opt.Content == ContentLink {
		short = fmt.Sprintf("%s/01/%s/21/%s", l.opt.LinkBase, l.gtin, url.PathEscape(serial))
		return short, fmt.Sprintf("%s?250=%d", short, number)
	}
	short = "01" + l.gtin + "21" + serial
	return short, fmt.Sprintf("%s%s250%d", short, gs, number)
}

// sameCode compares what two labels say, whatever the scanner adds or swallows.
func sameCode(a, b string) bool { return CodeKey(a) == CodeKey(b) }

// CodeKey returns a code as it is compared: without the AIM prefix, GS
// separators and parentheses around application identifiers.
func CodeKey(code string) string {
	if len(code) > 3 && code[0] == ']' {
		code = code[3:]
	}
	code = strings.ReplaceAll(strings.TrimSpace(code), gs, "")
	if strings.HasPrefix(code, "(01)") {
		code = strings.NewReplacer("(01)", "01", "(21)", "21", "(250)", "250").Replace(code)
	}
	return code
}

// linkOf returns the device's Digital Link, empty where there is none.
func (l *Labels) linkOf(unit LabelUnit, code string) string {
	if l.opt.Content == ContentLink {
		return code
	}
	serial, err := l.serialOf(unit)
	if err != nil || l.gtin == "" {
		return ""
	}
	return fmt.Sprintf("%s/01/%s/21/%s", l.opt.LinkBase, l.gtin, url.PathEscape(serial))
}

// symbol is a code as dark and light modules; one row is enough for Code 128.
type symbol struct {
	dark        [][]bool
	quiet       int // modules of margin that the symbol needs
	cols, rows  int
	linear      bool
	humanString string // the element strings with parentheses, else the code
}

// encode makes the label's symbol.
func (l *Labels) encode(code string) (*symbol, error) {
	var made barcode.Barcode
	var err error
	s := &symbol{humanString: code}
	isGS1 := l.opt.Content == ContentGS1
	if isGS1 {
		s.humanString = gs1Human(code)
	}
	switch l.opt.Symbol {
	case SymbolQR:
		s.quiet = 4
		made, err = qr.Encode(code, qr.M, qr.Auto)
	case SymbolCode128:
		s.quiet, s.linear = 10, true
		text := code
		if isGS1 {
			text = string(code128.FNC1) + strings.ReplaceAll(code, gs, string(code128.FNC1))
		}
		made, err = code128.Encode(text)
	default:
		s.quiet = 1
		text := code
		if isGS1 { // the library takes FNC1 as its codeword, a byte
			fnc1 := string([]byte{datamatrix.FNC1})
			text = fnc1 + strings.ReplaceAll(code, gs, fnc1)
		}
		made, err = datamatrix.Encode(text)
	}
	if err != nil {
		return nil, labelError("Use a symbol that holds more, or a shorter attribute.", "the code %q does not become a %s: %v", code, l.opt.Symbol, err)
	}
	s.cols, s.rows = made.Bounds().Dx(), made.Bounds().Dy()
	if s.linear {
		s.rows = 1
	}
	for y := range s.rows {
		row := make([]bool, s.cols)
		for x := range row {
			row[x] = dark(made, x, y)
		}
		s.dark = append(s.dark, row)
	}
	return s, nil
}

// gs1Human returns element strings as people read them: (01)…(21)….
func gs1Human(code string) string {
	if len(code) < 18 {
		return code
	}
	serial, unit, again := strings.Cut(code[18:], gs+"250")
	human := "(01)" + code[2:16] + "(21)" + serial
	if again {
		human += "(250)" + unit
	}
	return human
}
