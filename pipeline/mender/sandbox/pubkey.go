package sandbox

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// ed25519Prefix is the SPKI of an Ed25519 key up to its 32 bytes (RFC 8410).
// DER has no other form for it, so what starts so and has the right length is
// valid and normalised.
var ed25519Prefix = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}

var errNotPublicKey = errors.New("cannot decode public key")

// parsePublicKey reads the first PEM block of text, which must be a PKIX public
// key of RSA, ECDSA or Ed25519, and returns its normalised SPKI in DER. RSA keys
// too short for any signature pass, as they do on the real service.
func parsePublicKey(text []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errNotPublicKey
	}
	if len(block.Bytes) == len(ed25519Prefix)+ed25519.PublicKeySize && bytes.HasPrefix(block.Bytes, ed25519Prefix) {
		return block.Bytes, nil
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotPublicKey, err)
	}
	switch key.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return x509.MarshalPKIXPublicKey(key)
	}
	return nil, fmt.Errorf("%w: unsupported type %T", errNotPublicKey, key)
}

// appendPEM appends an SPKI as the service returns it, escaped for a JSON
// string.
func appendPEM(dst []byte, spki string) []byte {
	dst = append(dst, `-----BEGIN PUBLIC KEY-----\n`...)
	const line = 48 // bytes that make 64 characters
	for len(spki) > 0 {
		n := min(line, len(spki))
		dst = base64.StdEncoding.AppendEncode(dst, []byte(spki[:n]))
		dst = append(dst, `\n`...)
		spki = spki[n:]
	}
	return append(dst, `-----END PUBLIC KEY-----\n`...)
}

var errBadSignature = errors.New("signature verification failed")

// verifySignature checks a device's X-MEN-Signature over the raw body: base64 of
// RSA PKCS#1 v1.5 or ASN.1 ECDSA, both over SHA-256, or of pure Ed25519.
func verifySignature(spki []byte, header string, body []byte) error {
	signature, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		return errBadSignature
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return errBadSignature
	}
	digest := sha256.Sum256(body)
	good := false
	switch key := key.(type) {
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, digest[:], signature)
	case ed25519.PublicKey:
		good = ed25519.Verify(key, body, signature)
	}
	if !good {
		return errBadSignature
	}
	return nil
}
