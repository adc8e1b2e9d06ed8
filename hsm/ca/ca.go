// Package ca makes device certificates: X.509 v3 (RFC 5280, IEEE 802.1AR) over
// a device's own key, by a CA whose key is any crypto.Signer, such as one in an
// HSM token. It knows no lots.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// NoExpiry is the end of validity of certificates that have no well-defined
// one: 99991231235959Z (RFC 5280, section 4.1.2.5; IEEE 802.1AR, section 8.7).
func NoExpiry() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

// Authority makes certificates. It may be used by many goroutines at once, if
// its key may.
type Authority struct {
	chain    []*x509.Certificate // the CA's own first
	key      crypto.Signer
	profile  *profile
	alg      signing
	fixed    fixed
	pem      []byte // what certificate-chain adds
	pool     *x509.CertPool
	limited  bool // some certificate of the chain constrains names
	Warnings []string
}

// Certificate is what was made for a device.
type Certificate struct {
	DER                 []byte
	Serial              string // hexadecimal, 40 digits
	NotBefore, NotAfter time.Time
}

// PEM returns a certificate for a file.
func (c *Certificate) PEM() []byte { return encode(c.DER) }

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ParseChain reads a CA's certificate, followed by those above it, from PEM.
func ParseChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a %q where only certificates belong", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate (PEM) in it")
	}
	return chain, nil
}

// Open checks the CA against its own constraints and those above it, and makes
// one certificate for an invented device to see that all fits together. The
// errors are *PolicyError.
func Open(chain []*x509.Certificate, key crypto.Signer, p Profile, now time.Time) (*Authority, error) {
	a := &Authority{chain: chain, key: key}
	var err error
	if a.profile, err = p.compile(); err != nil {
		return nil, &PolicyError{Err: err, Help: "correct it in the certificates section of the settings"}
	}
	if err := a.checkChain(now); err != nil {
		return nil, err
	}
	if a.alg, err = signingBy(key.Public()); err != nil {
		return nil, err
	}
	if err := a.prepare(); err != nil {
		return nil, err
	}
	for i, cert := range chain {
		if i == 0 || !selfSigned(cert) {
			a.pem = append(a.pem, encode(cert.Raw)...)
		}
	}
	return a, a.checkValidity(now)
}

// Chain returns a device's certificate and those above it, without the root (PEM).
func (a *Authority) Chain(c *Certificate) []byte { return slices.Concat(encode(c.DER), a.pem) }

// Certificate returns the CA's own.
func (a *Authority) Certificate() *x509.Certificate { return a.chain[0] }

// signing is how a kind of key signs.
type signing struct {
	hash       crypto.Hash // 0 for Ed25519
	identifier []byte      // AlgorithmIdentifier, DER
	x509       x509.SignatureAlgorithm
}

func signingBy(public crypto.PublicKey) (signing, error) {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P384() {
			return signing{crypto.SHA384, []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"), x509.ECDSAWithSHA384}, nil
		}
		return signing{crypto.SHA256, []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"), x509.ECDSAWithSHA256}, nil
	case *rsa.PublicKey:
		return signing{crypto.SHA256, []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"), x509.SHA256WithRSA}, nil
	case ed25519.PublicKey:
		return signing{0, []byte("\x30\x05\x06\x03\x2b\x65\x70"), x509.PureEd25519}, nil
	}
	return signing{}, policyf("use an ECDSA, RSA or Ed25519 key", "a CA can't sign with a key of kind %T", public)
}

func selfSigned(cert *x509.Certificate) bool { return bytes.Equal(cert.RawSubject, cert.RawIssuer) }
