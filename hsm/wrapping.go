//go:build cgo

package hsm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP with SHA-1 is what some modules have; its security doesn't rest on collisions
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/miekg/pkcs11"
)

// wrapping is a way out of the token for a device key.
type wrapping struct {
	name      string
	mechanism uint
	iv        bool // takes a fresh initialisation vector of 16 bytes
	unwrap    unwrapper
	// For CKM_RSA_AES_KEY_WRAP, which works under an RSA key.
	hashAlg, mgf uint
	hash         func() hash.Hash // nil for the others
}

// Mechanisms of AWS CloudHSM (cloudhsm_pkcs11_vendor_defs.h).
const (
	ckmCloudHSMKeyWrapNoPad = pkcs11.CKM_VENDOR_DEFINED | pkcs11.CKM_AES_KEY_WRAP
	ckmCloudHSMKeyWrapPKCS5 = pkcs11.CKM_VENDOR_DEFINED | pkcs11.CKM_AES_KEY_WRAP_PAD
	ckmCloudHSMKeyWrapZero  = pkcs11.CKM_VENDOR_DEFINED | 0x216F
)

// wrappings are tried in this order. What a mechanism number means is found out,
// never inferred: CKM_AES_KEY_WRAP_PAD is RFC 5649 in SoftHSM, and RFC 3394 of
// PKCS#7-padded data in NSS.
func wrappings() []wrapping {
	return []wrapping{
		{name: "CKM_AES_KEY_WRAP_KWP (RFC 5649)", mechanism: ckmAESKeyWrapKWP, unwrap: unwrapKWP},
		{name: "CKM_AES_KEY_WRAP_PAD (RFC 5649)", mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD, unwrap: unwrapKWP},
		{name: "CKM_AES_KEY_WRAP_PAD (RFC 3394 with PKCS#7)", mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD, unwrap: unwrapPKCS7},
		{name: "CKM_AES_CBC_PAD", mechanism: pkcs11.CKM_AES_CBC_PAD, iv: true, unwrap: unwrapCBC},
		{name: "CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD (RFC 3394 with PKCS#7)", mechanism: ckmCloudHSMKeyWrapPKCS5, unwrap: unwrapPKCS7},
		{name: "CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD (RFC 5649)", mechanism: ckmCloudHSMKeyWrapPKCS5, unwrap: unwrapKWP},
		{name: "CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD (RFC 3394 with zeros)", mechanism: ckmCloudHSMKeyWrapZero, unwrap: unwrapZeros},
		{name: "CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD (RFC 5649)", mechanism: ckmCloudHSMKeyWrapZero, unwrap: unwrapKWP},
		{name: "CKM_AES_KEY_WRAP (RFC 3394)", mechanism: pkcs11.CKM_AES_KEY_WRAP, unwrap: unwrapZeros},
		{name: "CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD (RFC 3394)", mechanism: ckmCloudHSMKeyWrapNoPad, unwrap: unwrapZeros},
		{name: "CKM_RSA_AES_KEY_WRAP (OAEP SHA-256, AES-256)", mechanism: pkcs11.CKM_RSA_AES_KEY_WRAP, unwrap: unwrapKWP,
			hashAlg: pkcs11.CKM_SHA256, mgf: pkcs11.CKG_MGF1_SHA256, hash: sha256.New},
		{name: "CKM_RSA_AES_KEY_WRAP (OAEP SHA-1, AES-256)", mechanism: pkcs11.CKM_RSA_AES_KEY_WRAP, unwrap: unwrapKWP,
			hashAlg: pkcs11.CKM_SHA_1, mgf: pkcs11.CKG_MGF1_SHA1, hash: sha1.New},
	}
}

// fits reports whether the wrapping works under that kind of key.
func (w *wrapping) fits(k *kek) bool { return (w.hash != nil) == (k.host != nil) }

// parcel is a device key on its way out of the token.
type parcel struct {
	wrapped, iv []byte
	kek         cipher.Block
	host        *rsa.PrivateKey
	spki        []byte
}

// wrap takes a private key out under the session's kek.
func (s *session) wrap(w *wrapping, p *pair) (*parcel, error) {
	out := &parcel{kek: s.kek.block, host: s.kek.host, spki: p.spki}
	var parameter any // nil or []byte
	if w.iv {
		out.iv = make([]byte, aes.BlockSize)
		if _, err := rand.Read(out.iv); err != nil {
			return nil, err
		}
		parameter = out.iv
	}
	err := error(pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED))
	if s.direct != nil {
		out.wrapped, err = s.direct.wrap(s.handle, w, out.iv, s.kek.object, p.private)
	}
	if isCKR(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) && w.hash == nil { // whose parameter has pointers in it, which only direct makes
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
		if plain, err = p.unwrap(w); err == nil {
			der, err = normalise(alg, plain, p.spki)
			Wipe(plain)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	return der, nil
}

// unwrap takes a wrapping off. By CKM_RSA_AES_KEY_WRAP (PKCS#11 2.40, section
// 2.1.21) an AES key under RSA comes first, then the key under that.
func (p *parcel) unwrap(w *wrapping) ([]byte, error) {
	if w.hash == nil {
		return w.unwrap(p.kek, p.iv, p.wrapped)
	}
	size := p.host.Size()
	if len(p.wrapped) <= size {
		return nil, errUnwrap
	}
	secret, err := rsa.DecryptOAEP(w.hash(), rand.Reader, p.host, p.wrapped[:size], nil)
	if err != nil {
		return nil, errUnwrap
	}
	defer Wipe(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, errUnwrap
	}
	return w.unwrap(block, nil, p.wrapped[size:])
}
