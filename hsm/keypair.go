//go:build cgo

package hsm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// pair is a key pair in a token.
type pair struct {
	public, private pkcs11.ObjectHandle
	spki            []byte // as the token reports the public key
}

// kind is how a token makes keys of one algorithm.
type kind struct {
	mechanism uint
	public    []*pkcs11.Attribute
	full      bool // with CKA_PRIVATE and CKA_LABEL everywhere, without which some modules refuse a template
}

// ways returns the ways to ask for a key, the full templates last, or first where
// the module is known to want them.
func (s *session) ways(alg Algorithm) []kind {
	plain := kinds(alg)
	full := kinds(alg)
	for i := range full {
		full[i].full = true
	}
	if s.full != nil && s.full.Load() {
		return append(full, plain...)
	}
	return append(plain, full...)
}

// edwardsCurves are the two ways to name edwards25519 in CKA_EC_PARAMS: the
// object identifier of RFC 8410, which PKCS#11 3.0 asks for, and the name that
// drafts of it had.
var edwardsCurves = [][]byte{
	[]byte("\x06\x03\x2b\x65\x70"),
	[]byte("\x13\x0cedwards25519"),
}

// kinds returns the ways to ask for a key of an algorithm, to be tried in turn.
func kinds(alg Algorithm) []kind {
	if bits := alg.bits(); bits > 0 {
		return []kind{{mechanism: pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, public: []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		}}}
	}
	if curve := curveOf(alg); curve != nil {
		return []kind{{mechanism: pkcs11.CKM_EC_KEY_PAIR_GEN, public: []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte(curve.oid)),
		}}}
	}
	var ways []kind
	for _, name := range edwardsCurves {
		ways = append(ways, kind{mechanism: ckmECEdwardsKeyPair, public: []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, name)}})
	}
	return ways
}

// traits are what distinguishes the keys of the modes.
type traits struct {
	token       bool // a token object, which outlives its session
	extractable bool
	id          []byte // CKA_ID; may be nil for session objects
	label       string
}

// generate makes a key pair for signing, private and sensitive.
func (s *session) generate(alg Algorithm, t traits) (*pair, error) {
	var problems []error
	for _, way := range s.ways(alg) {
		public := append([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, t.token),
			pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		}, way.public...)
		private := []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, t.token),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, t.extractable),
			pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		}
		if t.id != nil {
			public = append(public, pkcs11.NewAttribute(pkcs11.CKA_ID, t.id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.label))
			private = append(private, pkcs11.NewAttribute(pkcs11.CKA_ID, t.id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.label))
		}
		if way.full && t.id == nil {
			public = append(public, pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, probeLabel))
			private = append(private, pkcs11.NewAttribute(pkcs11.CKA_LABEL, probeLabel))
		}
		pub, priv, err := s.GenerateKeyPair(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(way.mechanism, nil)}, public, private)
		if err != nil {
			if !way.full || len(problems) == 0 {
				problems = append(problems, fmt.Errorf("generate %s: %w", alg, err))
			}
			if !isCKR(err, cantErrors...) {
				break // another template won't help
			}
			continue
		}
		if way.full && s.full != nil {
			s.full.Store(true)
		}
		p := &pair{public: pub, private: priv}
		if p.spki, err = s.readSPKI(alg, pub); err != nil {
			return nil, errors.Join(err, s.destroy(p))
		}
		return p, nil
	}
	return nil, errors.Join(problems...)
}

// destroy removes both halves of a pair from the token.
func (s *session) destroy(p *pair) error {
	err := s.DestroyObject(s.handle, p.private)
	if publicErr := s.DestroyObject(s.handle, p.public); err == nil {
		err = publicErr
	}
	if err != nil {
		return fmt.Errorf("destroy the key in the token: %w", err)
	}
	return nil
}

// readSPKI returns a token's public key as SPKI.
func (s *session) readSPKI(alg Algorithm, public pkcs11.ObjectHandle) ([]byte, error) {
	if alg.bits() > 0 {
		values, err := s.attributes(public, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, fmt.Errorf("read the public key: %w", err)
		}
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(values[0]), E: int(new(big.Int).SetBytes(values[1]).Int64())}
		if key.N.BitLen() != alg.bits() || key.E < 3 {
			return nil, fmt.Errorf("the token made an RSA key of %d bits with exponent %d", key.N.BitLen(), key.E)
		}
		return x509.MarshalPKIXPublicKey(key)
	}
	point, err := s.point(public)
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	return spkiOfPoint(alg, point)
}

// point reads CKA_EC_POINT, which is done for every device: in one call if it goes.
func (s *session) point(public pkcs11.ObjectHandle) ([]byte, error) {
	if s.direct != nil {
		point, err := s.direct.attribute(s.handle, public, pkcs11.CKA_EC_POINT)
		if !isCKR(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_BUFFER_TOO_SMALL) {
			return point, err
		}
	}
	values, err := s.attributes(public, pkcs11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

// spkiOfPoint returns the SPKI of a CKA_EC_POINT. By the standard that is a DER
// OCTET STRING; some modules leave its header out, others write the BIT STRING
// that an SPKI has.
func spkiOfPoint(alg Algorithm, point []byte) ([]byte, error) {
	size, prefix := ed25519.PublicKeySize, ed25519Public
	if curve := curveOf(alg); curve != nil {
		size, prefix = 1+2*curve.size, curve.publicPrefix
	}
	for _, header := range [][]byte{{4, byte(size)}, {3, byte(size + 1), 0}} {
		if len(point) == size+len(header) && bytes.HasPrefix(point, header) {
			point = point[len(header):]
			break
		}
	}
	if len(point) != size {
		return nil, fmt.Errorf("the token reports a public key of %d bytes for %s", len(point), alg)
	}
	return append([]byte(prefix), point...), nil
}

// attributes reads attributes of an object, in the order asked for.
func (s *session) attributes(object pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	template := make([]*pkcs11.Attribute, len(types))
	for i, t := range types {
		template[i] = pkcs11.NewAttribute(t, nil)
	}
	got, err := s.GetAttributeValue(s.handle, object, template)
	if err != nil {
		return nil, err
	}
	values := make([][]byte, len(got))
	for i, a := range got {
		values[i] = a.Value
	}
	return values, nil
}

// flag reads one boolean attribute; false where the token doesn't know it.
func (s *session) flag(object pkcs11.ObjectHandle, attribute uint) bool {
	values, err := s.attributes(object, attribute)
	return err == nil && len(values[0]) == 1 && values[0][0] != 0
}
