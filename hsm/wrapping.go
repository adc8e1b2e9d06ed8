//go:build cgo

package hsm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/miekg/pkcs11"
)

// wrapping is a way out of the token for a device key.
type wrapping struct {
	name      string
	mechanism uint
	iv        bool // takes a fresh initialisation vector of 16 bytes
	unwrap    unwrapper
}

// wrappings are tried in this order. What a mechanism number means is found out,
// never inferred: CKM_AES_KEY_WRAP_PAD is RFC 5649 in SoftHSM, and RFC 3394 of
// PKCS#7-padded data in NSS.
func wrappings() []wrapping {
	return []wrapping{
		{"CKM_AES_KEY_WRAP_KWP (RFC 5649)", ckmAESKeyWrapKWP, false, unwrapKWP},
		{"CKM_AES_KEY_WRAP_PAD (RFC 5649)", pkcs11.CKM_AES_KEY_WRAP_PAD, false, unwrapKWP},
		{"CKM_AES_KEY_WRAP_PAD (RFC 3394 with PKCS#7)", pkcs11.CKM_AES_KEY_WRAP_PAD, false, unwrapPKCS7},
		{"CKM_AES_CBC_PAD", pkcs11.CKM_AES_CBC_PAD, true, unwrapCBC},
	}
}

// parcel is a device key on its way out of the token.
type parcel struct {
	wrapped, iv []byte
	kek         cipher.Block
	spki        []byte
}

// wrap takes a private key out under the session's kek.
func (s *session) wrap(w *wrapping, p *pair) (*parcel, error) {
	out := &parcel{kek: s.kek.block, spki: p.spki}
	var parameter any // nil or []byte
	if w.iv {
		out.iv = make([]byte, aes.BlockSize)
		if _, err := rand.Read(out.iv); err != nil {
			return nil, err
		}
		parameter = out.iv
	}
	var err error
	if s.direct != nil {
		out.wrapped, err = s.direct.wrap(s.handle, w.mechanism, out.iv, s.kek.object, p.private)
	}
	if s.direct == nil || isCKR(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		s.direct = nil // p11-kit's client is another instance for whoever asks for its functions again
		out.wrapped, err = s.WrapKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(w.mechanism, parameter)}, s.kek.object, p.private)
	}
	if err != nil {
		return nil, fmt.Errorf("wrap the key by %s: %w", w.name, err)
	}
	return out, nil
}

// open unwraps a parcel on the host and compares the key with the token's
// public one. It returns PKCS#8 DER, which the caller wipes.
func (p *parcel) open(w *wrapping, alg Algorithm) (der []byte, err error) {
	secretly(func() {
		var plain []byte
		if plain, err = w.unwrap(p.kek, p.iv, p.wrapped); err == nil {
			der, err = normalise(alg, plain, p.spki)
			Wipe(plain)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	return der, nil
}
