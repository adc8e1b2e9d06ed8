//go:build cgo

package hsm

import (
	"crypto"
	"crypto/rsa"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// digestInfo is what PKCS#1 v1.5 puts before a digest (RFC 8017, section 9.2).
func digestInfo(hash crypto.Hash) ([]byte, error) {
	switch hash {
	case crypto.SHA256:
		return []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), nil
	case crypto.SHA384:
		return []byte("\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"), nil
	case crypto.SHA512:
		return []byte("\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"), nil
	}
	return nil, fmt.Errorf("no signatures with hash %v", hash)
}

// sign signs a digest (for Ed25519 the message) in the token, as crypto.Signer
// has it: ASN.1 for ECDSA, PKCS#1 v1.5 for RSA.
func (s *session) sign(alg Algorithm, key pkcs11.ObjectHandle, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	mechanism, input := uint(pkcs11.CKM_ECDSA), digest
	switch {
	case alg == Ed25519:
		if opts.HashFunc() != 0 && len(digest) == 64 {
			return nil, fmt.Errorf("ed25519ph is not supported")
		}
		mechanism = ckmEdDSA
	case alg.bits() > 0:
		if _, pss := opts.(*rsa.PSSOptions); pss {
			return nil, fmt.Errorf("RSA-PSS is not supported by this signer")
		}
		prefix, err := digestInfo(opts.HashFunc())
		if err != nil {
			return nil, err
		}
		mechanism, input = pkcs11.CKM_RSA_PKCS, append(prefix, digest...)
	}
	if err := s.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key); err != nil {
		return nil, fmt.Errorf("sign in the token: %w", err)
	}
	raw, err := s.Sign(s.handle, input)
	if err != nil {
		return nil, fmt.Errorf("sign in the token: %w", err)
	}
	if mechanism == pkcs11.CKM_ECDSA {
		return ecdsaASN1(raw)
	}
	return raw, nil
}

// ecdsaASN1 turns r||s, which PKCS#11 has, into Ecdsa-Sig-Value (RFC 3279).
func ecdsaASN1(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, fmt.Errorf("the token made an ECDSA signature of %d bytes", len(raw))
	}
	half := len(raw) / 2
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:half]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[half:]))
	})
	return b.Bytes()
}
