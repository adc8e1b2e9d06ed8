package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// Profile says what devices' certificates look like. Its texts are
// text/template over a device's attributes: "CN={{.serial}},O=Example".
type Profile struct {
	// Subject is a name as RFC 4514 writes it, most specific part first. Values
	// are filled in after it was taken apart, so that no attribute can add a part.
	Subject string
	// DNS and URI are subjectAltName entries.
	DNS, URI []string
	// HardwareType is the object identifier of the hardware ("1.3.6.1.4.1.99999.1")
	// and HardwareSerial its serial number, for the otherName hardwareModuleName
	// (RFC 4108) that IEEE 802.1AR wants in a subjectAltName.
	HardwareType, HardwareSerial string
	// Days is how long certificates are valid; 0: without a well-defined end.
	Days int
}

// profile is a compiled Profile.
type profile struct {
	parts    []part // in the order of DER, most general first
	dns, uri []*template.Template
	oid      asn1.ObjectIdentifier // nil: no hardwareModuleName
	serial   *template.Template
	days     int
	used     []string // names of attributes in the templates
}

// part is one AttributeTypeAndValue of the subject.
type part struct {
	name  string
	oid   asn1.ObjectIdentifier
	most  int // characters, by RFC 5280's upper bounds
	value *template.Template
	// printable is the only kind of string that the type has; ia5 the other one.
	printable, ia5 bool
}

type kind struct {
	oid            asn1.ObjectIdentifier
	most           int
	printable, ia5 bool
}

// kinds are the parts of a name that RFC 5280 and RFC 4519 have.
func kinds() map[string]kind {
	return map[string]kind{
		"CN": {asn1.ObjectIdentifier{2, 5, 4, 3}, 64, false, false}, "SERIALNUMBER": {asn1.ObjectIdentifier{2, 5, 4, 5}, 64, true, false},
		"C": {asn1.ObjectIdentifier{2, 5, 4, 6}, 2, true, false}, "L": {asn1.ObjectIdentifier{2, 5, 4, 7}, 128, false, false},
		"ST": {asn1.ObjectIdentifier{2, 5, 4, 8}, 128, false, false}, "O": {asn1.ObjectIdentifier{2, 5, 4, 10}, 64, false, false},
		"OU": {asn1.ObjectIdentifier{2, 5, 4, 11}, 64, false, false}, "DNQUALIFIER": {asn1.ObjectIdentifier{2, 5, 4, 46}, 64, true, false},
		"DC":  {asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, 63, false, true},
		"UID": {asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, 256, false, false},
	}
}

func (p Profile) compile() (*profile, error) {
	c := &profile{days: p.Days}
	if p.Days < 0 {
		return nil, fmt.Errorf("days is %d", p.Days)
	}
	if strings.TrimSpace(p.Subject) == "" {
		return nil, errors.New("there is no subject")
	}
	for _, text := range splitName(p.Subject) {
		piece, err := c.part(text)
		if err != nil {
			return nil, fmt.Errorf("subject: %w", err)
		}
		c.parts = append([]part{piece}, c.parts...)
	}
	for _, list := range []struct {
		from []string
		to   *[]*template.Template
	}{{p.DNS, &c.dns}, {p.URI, &c.uri}} {
		for _, text := range list.from {
			t, err := c.template(text)
			if err != nil {
				return nil, err
			}
			*list.to = append(*list.to, t)
		}
	}
	if (p.HardwareType == "") != (p.HardwareSerial == "") {
		return nil, errors.New("hardware_type and hardware_serial go together")
	}
	if p.HardwareType == "" {
		return c, nil
	}
	var err error
	if c.oid, err = parseOID(p.HardwareType); err != nil {
		return nil, err
	}
	c.serial, err = c.template(p.HardwareSerial)
	return c, err
}

// Attributes returns the attributes that the templates name.
func (p Profile) Attributes() []string {
	c, err := p.compile()
	if err != nil {
		return nil // Open says why
	}
	slices.Sort(c.used)
	return slices.Compact(c.used)
}

// splitName takes a name apart at commas and plus signs that no template and no
// backslash covers.
func splitName(s string) []string {
	var parts []string
	start, braces := 0, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case strings.HasPrefix(s[i:], "{{"):
			braces++
			i++
		case strings.HasPrefix(s[i:], "}}"):
			braces--
			i++
		case s[i] == ',' && braces == 0:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func (c *profile) part(text string) (part, error) {
	name, value, ok := strings.Cut(strings.TrimSpace(text), "=")
	name = strings.ToUpper(strings.TrimSpace(name))
	known, is := kinds()[name]
	if !ok || !is {
		return part{}, fmt.Errorf("%q: write NAME=value with a name of CN, O, OU, C, ST, L, serialNumber, dnQualifier, UID, DC", text)
	}
	t, err := c.template(regexp.MustCompile(`\\([,+"\\<>;= #])`).ReplaceAllString(strings.TrimSpace(value), "$1"))
	return part{name, known.oid, known.most, t, known.printable, known.ia5}, err
}

func (c *profile) template(text string) (*template.Template, error) {
	t, err := template.New("certificate").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	for _, name := range regexp.MustCompile(`\.([A-Za-z_][A-Za-z0-9_]*)|index \. "([^"]*)"`).FindAllStringSubmatch(text, -1) {
		c.used = append(c.used, name[1]+name[2])
	}
	return t, nil
}

// invented returns attributes for a device that doesn't exist.
func (c *profile) invented() map[string]string {
	attrs := map[string]string{}
	for _, name := range c.used {
		attrs[name] = "0"
	}
	return attrs
}

func parseOID(text string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for _, arc := range strings.Split(text, ".") {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("hardware_type %q is no object identifier such as 1.3.6.1.4.1.99999.1", text)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 3 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, fmt.Errorf("hardware_type %q is no object identifier such as 1.3.6.1.4.1.99999.1", text)
	}
	return oid, nil
}

// render fills a template in. Certificates are read by people and compared by
// machines: what can't be seen has no place in them.
func render(t *template.Template, attrs map[string]string) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, attrs); err != nil {
		if missing := regexp.MustCompile(`map has no entry for key "[^"]*"`).FindString(err.Error()); missing != "" {
			return "", fmt.Errorf("the device has no such attribute: %s", strings.TrimPrefix(missing, "map has no entry for key "))
		}
		return "", err
	}
	text := b.String()
	if text == "" {
		return "", errors.New("a value is empty")
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
		return "", fmt.Errorf("the value %q has characters that no certificate may have", text)
	}
	if strings.TrimSpace(text) != text {
		return "", fmt.Errorf("the value %q begins or ends with a blank", text)
	}
	return text, nil
}

// subject returns a device's name as DER, and for people.
func (c *profile) subject(attrs map[string]string) ([]byte, string, error) {
	var b cryptobyte.Builder
	text := make([]string, len(c.parts))
	var problem error
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		for i, piece := range c.parts {
			value, err := render(piece.value, attrs)
			if err == nil {
				err = piece.check(value)
			}
			if err != nil {
				problem = fmt.Errorf("subject, %s: %w", piece.name, err)
				return
			}
			text[len(text)-1-i] = piece.name + "=" + value
			b.AddASN1(der.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(piece.oid)
					b.AddASN1(piece.tag(value), func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
				})
			})
		}
	})
	if problem != nil {
		return nil, "", problem
	}
	name, err := b.Bytes()
	return name, strings.Join(text, ","), err
}

func (p *part) check(value string) error {
	switch n := utf8.RuneCountInString(value); {
	case n > p.most:
		return fmt.Errorf("the value %q has %d characters, and %d are allowed", value, n, p.most)
	case p.printable && !printable(value):
		return fmt.Errorf("the value %q has characters besides letters, digits, blank and '()+,-./:=?", value)
	case p.ia5 && !ascii(value):
		return fmt.Errorf("the value %q has characters beyond ASCII", value)
	case p.name == "C" && !countryCode.MatchString(value):
		return fmt.Errorf("the value %q is no country code of two capital letters", value)
	}
	return nil
}

// tag returns the kind of string: PrintableString where it can be, as older
// readers want, else UTF8String.
func (p *part) tag(value string) der.Tag {
	switch {
	case p.ia5:
		return der.IA5String
	case printable(value):
		return der.PrintableString
	}
	return der.UTF8String
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(" '()+,-./:=?", r)
	})
}

func ascii(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }) }

// names returns a device's subjectAltName (the extension's value), nil if it has none.
func (c *profile) names(attrs map[string]string) ([]byte, error) {
	if len(c.dns)+len(c.uri) == 0 && c.oid == nil {
		return nil, nil
	}
	var b cryptobyte.Builder
	var problem error
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { problem = c.addNames(b, attrs) })
	if problem != nil {
		return nil, problem
	}
	return b.Bytes()
}

func (c *profile) addNames(b *cryptobyte.Builder, attrs map[string]string) error {
	for _, t := range c.dns {
		name, err := render(t, attrs)
		if err == nil && !isDNS(name) {
			err = fmt.Errorf("%q is no DNS name", name)
		}
		if err != nil {
			return fmt.Errorf("dns: %w", err)
		}
		b.AddASN1(der.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
	}
	for _, t := range c.uri {
		name, err := render(t, attrs)
		if err == nil {
			if u, parseErr := url.Parse(name); parseErr != nil || u.Scheme == "" || !ascii(name) || u.Host == "" && u.Opaque == "" {
				err = fmt.Errorf("%q is no absolute URI", name)
			}
		}
		if err != nil {
			return fmt.Errorf("uri: %w", err)
		}
		b.AddASN1(der.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
	}
	if c.oid == nil {
		return nil
	}
	serial, err := render(c.serial, attrs)
	if err != nil {
		return fmt.Errorf("hardware_serial: %w", err)
	}
	// RFC 4108, section 5: HardwareModuleName, as an otherName of id-on-hardwareModuleName.
	b.AddASN1(der.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4})
		b.AddASN1(der.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(c.oid)
				b.AddASN1OctetString([]byte(serial))
			})
		})
	})
	return nil
}

var ( // never changed
	dnsName     = regexp.MustCompile(`^(?i)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	countryCode = regexp.MustCompile(`^[A-Z]{2}$`)
)

func isDNS(name string) bool {
	return len(name) <= 253 && dnsName.MatchString(name)
}

// validity returns from when to when a certificate that is made now holds. It
// begins an hour ago, as devices' clocks differ, but not before the CA's own.
func (c *profile) validity(now time.Time, issuer *x509.Certificate) (notBefore, notAfter time.Time) {
	now = now.UTC().Truncate(time.Second)
	notBefore = now.Add(-time.Hour)
	if notBefore.Before(issuer.NotBefore) {
		notBefore = issuer.NotBefore
	}
	if c.days == 0 {
		return notBefore, NoExpiry()
	}
	return notBefore, now.AddDate(0, 0, c.days)
}
