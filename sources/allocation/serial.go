package allocation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"keymill/pipeline"
	"keymill/sources"
)

// SerialPattern says how serial numbers look: text with fields in braces.
//
//	{seq:6}  the sequence number in 6 digits (1 to 12); exactly once
//	{luhn}   right after it: the check digit (ISO/IEC 7812-1) of all digits before
//	{yyyy} {yy} {mm} {dd}  the date; {ww} the ISO week, with which years are ISO years
//	{lot}    the lot's name
//
// "KM{yy}{ww}-{seq:5}" gives KM2647-00001. A sequence begins anew where what
// stands before it is new.
type SerialPattern struct {
	text   string
	before []string // literals and field names in braces
	after  []string
	digits int
	luhn   bool
}

// maxSerialDigits keeps numbers within 64 bits, also signed ones.
const maxSerialDigits = 18

// ParseSerialPattern reads a pattern.
func ParseSerialPattern(text string) (*SerialPattern, error) {
	p := &SerialPattern{text: text}
	if err := p.parse(); err != nil {
		return nil, pipeline.WithHint(fmt.Errorf("bad serial number pattern %q: %w", text, err),
			"write it as text with fields, such as KM{yy}{ww}-{seq:5}; fields are {seq:N} {luhn} {yyyy} {yy} {mm} {dd} {ww} {lot}")
	}
	return p, nil
}

func (p *SerialPattern) parse() error {
	for rest := p.text; rest != ""; {
		literal, field, found := strings.Cut(rest, "{")
		if strings.ContainsRune(literal, '}') {
			return errors.New("a } without {")
		}
		if literal != "" {
			p.add(literal)
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(field, "}")
		if !closed {
			return errors.New("a { without }")
		}
		if err := p.field(name); err != nil {
			return err
		}
		rest = tail
	}
	if p.digits == 0 {
		return errors.New("it has no {seq:N}")
	}
	if what, _ := sources.CheckValue(sources.AttrSerial, p.text, true); what != "" {
		return errors.New(what)
	}
	return nil
}

func (p *SerialPattern) add(part string) {
	if p.digits == 0 {
		p.before = append(p.before, part)
	} else {
		p.after = append(p.after, part)
	}
}

func (p *SerialPattern) field(name string) error {
	width, isSeq := strings.CutPrefix(name, "seq:")
	switch {
	case isSeq && p.digits > 0:
		return errors.New("it has {seq} twice")
	case isSeq:
		n, err := strconv.Atoi(width)
		if err != nil || n < 1 || n > 12 {
			return errors.New("{seq:N} needs a number of digits from 1 to 12")
		}
		p.digits = n
	case name == "luhn":
		if p.digits == 0 || p.luhn || len(p.after) > 0 {
			return errors.New("{luhn} must follow {seq:N} at once")
		}
		p.luhn = true
	case strings.Contains(" yyyy yy mm dd ww lot ", " "+name+" "):
		p.add("{" + name + "}")
	default:
		return fmt.Errorf("there is no field {%s}", name)
	}
	return nil
}

// serialBlock is a pattern on one day for one lot: only the sequence varies.
type serialBlock struct {
	space  string // serials of different spaces cannot be equal
	prefix string
	suffix string
	digits int
	luhn   bool
	base   uint64 // number of the space at which the block begins
	size   uint64 // numbers of the space
	unit   uint64 // numbers of the space that one serial takes
}

// at fixes a pattern's fields. Digits next to the sequence count as part of the
// number, so that SN0{seq:5} and SN{seq:6} are seen to overlap.
func (p *SerialPattern) at(lot string, day time.Time) (serialBlock, error) {
	b := serialBlock{prefix: p.expand(p.before, lot, day), suffix: p.expand(p.after, lot, day), digits: p.digits, luhn: p.luhn, unit: 1}
	letters := strings.TrimRight(b.prefix, "0123456789")
	fixed := b.prefix[len(letters):]
	width := len(fixed) + b.digits
	b.size = pow10(b.digits)
	if b.luhn {
		width, b.size, b.unit = width+1, b.size*10, 10
	}
	hint := "part the digits by a letter or a hyphen"
	if b.suffix != "" && b.suffix[0] >= '0' && b.suffix[0] <= '9' {
		return b, pipeline.WithHint(fmt.Errorf("the serial number pattern %q has a digit after the sequence", p.text), "%s", hint)
	}
	if width > maxSerialDigits {
		return b, pipeline.WithHint(fmt.Errorf("the serial number pattern %q gives more than %d digits in a row", p.text, maxSerialDigits), "%s", hint)
	}
	if fixed != "" {
		n, err := strconv.ParseUint(fixed, 10, 64)
		if err != nil {
			return b, fmt.Errorf("serial number pattern %q: %w", p.text, err)
		}
		b.base = n * b.size
	}
	b.space = "serial " + letters + strings.Repeat("#", width) + b.suffix
	return b, nil
}

func (p *SerialPattern) expand(parts []string, lot string, day time.Time) string {
	year := day.Year()
	isoYear, week := day.ISOWeek()
	if strings.Contains(p.text, "{ww}") {
		year = isoYear
	}
	var s strings.Builder
	for _, part := range parts {
		switch part {
		case "{yyyy}":
			fmt.Fprintf(&s, "%04d", year)
		case "{yy}":
			fmt.Fprintf(&s, "%02d", year%100)
		case "{mm}":
			fmt.Fprintf(&s, "%02d", int(day.Month()))
		case "{dd}":
			fmt.Fprintf(&s, "%02d", day.Day())
		case "{ww}":
			fmt.Fprintf(&s, "%02d", week)
		case "{lot}":
			s.WriteString(lot)
		default:
			s.WriteString(part)
		}
	}
	return s.String()
}

// serial returns the serial number that takes the number n of the space.
func (b *serialBlock) serial(n uint64) string {
	seq := (n - b.base) / b.unit
	s := fmt.Sprintf("%s%0*d", b.prefix, b.digits, seq)
	if b.luhn {
		s += string(luhn(s))
	}
	return s + b.suffix
}

// number is the inverse of serial: the number of the space that a serial number
// of this block takes. Letter case does not count: serials that differ in it
// alone are told apart by no person.
func (b *serialBlock) number(serial string) (uint64, bool) {
	width := b.digits
	if b.luhn {
		width++
	}
	if len(serial) != len(b.prefix)+width+len(b.suffix) {
		return 0, false
	}
	middle := serial[len(b.prefix) : len(b.prefix)+width]
	if !strings.EqualFold(serial[:len(b.prefix)], b.prefix) || !strings.EqualFold(serial[len(b.prefix)+width:], b.suffix) ||
		strings.Trim(middle, "0123456789") != "" {
		return 0, false
	}
	seq, err := strconv.ParseUint(middle[:b.digits], 10, 64)
	return b.base + seq*b.unit, err == nil
}

// luhn returns the check digit of the decimal digits in s (ISO/IEC 7812-1,
// annex B).
func luhn(s string) rune {
	sum, double := 0, true
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] < '0' || s[i] > '9' {
			continue
		}
		d := int(s[i] - '0')
		if double {
			d *= 2
			d = d/10 + d%10
		}
		sum += d
		double = !double
	}
	return rune('0' + (10-sum%10)%10)
}

func pow10(n int) uint64 {
	v := uint64(1)
	for range n {
		v *= 10
	}
	return v
}
