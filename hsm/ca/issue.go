package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// fixed are the parts that all certificates of a CA share (DER). A certificate
// is put together here and not by crypto/x509, which verifies each signature
// that it makes: signers in tokens do so themselves, and it would be most of the
// cost. The trial certificate, and the tests, are read by crypto/x509.
type fixed struct {
	issuer []byte // Name
	aki    []byte // extension authorityKeyIdentifier
	common []byte // extensions basicConstraints and extendedKeyUsage
}

func oid(arcs ...int) asn1.ObjectIdentifier { return arcs }

func (a *Authority) prepare() error {
	aki, err := extension(oid(2, 5, 29, 35), false, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(der.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(a.chain[0].SubjectKeyId) })
		})
	})
	if err != nil {
		return err
	}
	constraints, err := extension(oid(2, 5, 29, 19), true, func(b *cryptobyte.Builder) { b.AddASN1(der.SEQUENCE, func(*cryptobyte.Builder) {}) })
	if err != nil {
		return err
	}
	usage, err := extension(oid(2, 5, 29, 37), false, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid(1, 3, 6, 1, 5, 5, 7, 3, 2)) }) // clientAuth
	})
	a.fixed = fixed{issuer: a.chain[0].RawSubject, aki: aki, common: append(constraints, usage...)}
	return err
}

// extension returns one Extension (DER).
func extension(id asn1.ObjectIdentifier, critical bool, value func(*cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(der.OCTET_STRING, value)
	})
	return b.Bytes()
}

// newSerial returns 20 random octets: positive, and none of them zero in front
// (RFC 5280, section 4.1.2.2).
func newSerial() ([]byte, error) {
	serial := make([]byte, 20)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] = serial[0]&0x7f | 0x40
	return serial, nil
}

// Issue makes the certificate for a device's public key (SPKI, DER). An error is
// the device's own, or the CA key's.
func (a *Authority) Issue(attrs map[string]string, spki []byte, now time.Time) (*Certificate, error) {
	subject, _, err := a.profile.subject(attrs)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	names, err := a.profile.names(attrs)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	made := &Certificate{Serial: hex.EncodeToString(serial)}
	made.NotBefore, made.NotAfter = a.profile.validity(now, a.chain[0])
	tbs, err := a.tbs(made, serial, subject, names, spki)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	signature, err := a.sign(tbs)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate with the CA's key: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(a.alg.identifier)
		b.AddASN1BitString(signature)
	})
	made.DER, err = b.Bytes()
	return made, err
}

func (a *Authority) sign(tbs []byte) ([]byte, error) {
	digest := tbs
	if a.alg.hash != 0 {
		h := a.alg.hash.New()
		h.Write(tbs)
		digest = h.Sum(nil)
	}
	return a.key.Sign(rand.Reader, digest, crypto.SignerOpts(a.alg.hash))
}

// tbs returns the TBSCertificate (RFC 5280, section 4.1).
func (a *Authority) tbs(c *Certificate, serial, subject, names, spki []byte) ([]byte, error) {
	key, err := keyOf(spki)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1(der.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(serial) })
		b.AddBytes(a.alg.identifier)
		b.AddBytes(a.fixed.issuer)
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, c.NotBefore)
			addTime(b, c.NotAfter)
		})
		b.AddBytes(subject)
		b.AddBytes(spki)
		b.AddASN1(der.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { a.extensions(b, key, names) })
		})
	})
	return b.Bytes()
}

func (a *Authority) extensions(b *cryptobyte.Builder, key, names []byte) {
	id := sha256.Sum256(key) // RFC 7093, method 1: the leftmost 160 bits
	for _, e := range []struct {
		id       asn1.ObjectIdentifier
		critical bool
		value    []byte
	}{
		{oid(2, 5, 29, 15), true, []byte{3, 2, 7, 0x80}}, // keyUsage digitalSignature, which is what clientAuth goes with
		{oid(2, 5, 29, 14), false, append([]byte{4, 20}, id[:20]...)},
		{oid(2, 5, 29, 17), false, names},
	} {
		if e.value == nil {
			continue
		}
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(e.id)
			if e.critical {
				b.AddASN1Boolean(true)
			}
			b.AddASN1OctetString(e.value)
		})
	}
	b.AddBytes(a.fixed.common)
	b.AddBytes(a.fixed.aki)
}

// keyOf returns the bits of a public key.
func keyOf(spki []byte) ([]byte, error) {
	input := cryptobyte.String(spki)
	var whole, identifier cryptobyte.String
	var bits asn1.BitString
	if !input.ReadASN1(&whole, der.SEQUENCE) || !input.Empty() || !whole.ReadASN1(&identifier, der.SEQUENCE) ||
		!whole.ReadASN1BitString(&bits) || !whole.Empty() {
		return nil, fmt.Errorf("the public key is no SubjectPublicKeyInfo")
	}
	return bits.RightAlign(), nil
}

// addTime writes UTCTime until 2049, and GeneralizedTime from 2050 on.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if year := t.Year(); year >= 1950 && year < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}
