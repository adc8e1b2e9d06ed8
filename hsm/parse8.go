package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// errOtherKey says that what came out of a token isn't the key that it
// reported. Nothing of it is used.
var errOtherKey = errors.New("the key that left the token doesn't belong to the public key that the token reports")

// normalise returns the PKCS#8 (DER) of a private key as crypto/x509 writes it.
// plain is what came out of a token: a PKCS#8, perhaps with zeros behind it,
// perhaps without the public point (SoftHSM). spki is the token's public key;
// any other key is refused.
func normalise(alg Algorithm, plain, spki []byte) ([]byte, error) {
	input := cryptobyte.String(plain)
	var whole cryptobyte.String
	if !input.ReadASN1Element(&whole, asn1.SEQUENCE) || !allZero(input) {
		return nil, errUnwrap
	}
	if curve := curveOf(alg); curve != nil {
		return normaliseEC(curve, whole, spki)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(whole)
	if err != nil {
		return nil, fmt.Errorf("the key that left the token can't be read: %w", errUnwrap)
	}
	switch key := parsed.(type) {
	case *rsa.PrivateKey:
		defer wipeRSA(key)
	case ed25519.PrivateKey:
		defer Wipe(key)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errOtherKey
	}
	if public, err := x509.MarshalPKIXPublicKey(signer.Public()); err != nil || !bytes.Equal(public, spki) {
		return nil, errOtherKey
	}
	return x509.MarshalPKCS8PrivateKey(parsed)
}

// normaliseEC does the same for elliptic curves at a third of the time of
// crypto/x509, which would multiply the base point twice.
func normaliseEC(curve *curveDER, whole cryptobyte.String, spki []byte) ([]byte, error) {
	var info, octets, sec1, scalar cryptobyte.String
	if !whole.ReadASN1(&info, asn1.SEQUENCE) || !info.SkipASN1(asn1.INTEGER) || !info.SkipASN1(asn1.SEQUENCE) ||
		!info.ReadASN1(&octets, asn1.OCTET_STRING) || !octets.ReadASN1(&sec1, asn1.SEQUENCE) ||
		!sec1.SkipASN1(asn1.INTEGER) || !sec1.ReadASN1(&scalar, asn1.OCTET_STRING) {
		return nil, errUnwrap
	}
	padded := make([]byte, curve.size)
	defer Wipe(padded)
	digits := bytes.TrimLeft(scalar, "\x00")
	if len(digits) > len(padded) {
		return nil, errUnwrap
	}
	copy(padded[len(padded)-len(digits):], digits)
	group := ecdh.P256()
	if curve.size == 48 {
		group = ecdh.P384()
	}
	key, err := group.NewPrivateKey(padded)
	if err != nil {
		return nil, errUnwrap
	}
	point := key.PublicKey().Bytes()
	if !bytes.Equal(curve.public(point), spki) {
		return nil, errOtherKey
	}
	return curve.private(padded, point), nil
}
