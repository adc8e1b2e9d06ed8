//go:build cgo

package hsm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP with SHA-1 is what some modules have; its security doesn't rest on collisions
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"github.com/miekg/pkcs11"
)

// kek is the AES-256 key that wraps device keys. One lives in each session, as
// a session object, for as long as the session does; the host holds it too.
type kek struct {
	object pkcs11.ObjectHandle
	block  cipher.Block
}

// wipe drops the host's half. crypto/aes offers no way to zero the key schedule.
func (k *kek) wipe() {
	if k != nil {
		k.block = nil
	}
}

// transport is a way to come to share a kek with the token.
type transport struct {
	name    string // for the audit
	warning string
	make    func(s *session, host *rsa.PrivateKey) (*kek, error)
}

// transports are tried in this order.
func transports() []transport {
	return []transport{
		{name: "made in the token, out once by RSA-3072 OAEP SHA-256",
			make: exportKEK(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, sha256.New)},
		{name: "made in the token, out once by RSA-3072 OAEP SHA-1",
			warning: "the module's OAEP has no SHA-256; the wrapping key left the token under OAEP with SHA-1",
			make:    exportKEK(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, sha1.New)},
		{name: "made on this host, imported",
			warning: "the module can't export a wrapping key under RSA-OAEP; it was made on this host and imported in clear",
			make:    importKEK},
	}
}

// exportKEK has the token make the key, takes it out under the host's ephemeral
// RSA key, and then forbids that it ever leaves again.
func exportKEK(hashAlg, mgf uint, hash func() hash.Hash) func(*session, *rsa.PrivateKey) (*kek, error) {
	return func(s *session, host *rsa.PrivateKey) (*kek, error) {
		object, err := s.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, append(kekTemplate(),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)))
		if err != nil {
			return nil, fmt.Errorf("make a wrapping key in the token: %w", err)
		}
		secret, err := s.exportTo(host, object, hashAlg, mgf, hash)
		if err == nil {
			err = s.SetAttributeValue(s.handle, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false)})
		}
		if err != nil {
			Wipe(secret)
			return nil, errors.Join(err, s.DestroyObject(s.handle, object))
		}
		return newKEK(object, secret)
	}
}

// exportTo wraps an object under the host's RSA key, and unwraps it here.
func (s *session) exportTo(host *rsa.PrivateKey, object pkcs11.ObjectHandle, hashAlg, mgf uint, hash func() hash.Hash) ([]byte, error) {
	public, err := s.CreateObject(s.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, host.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	})
	if err != nil {
		return nil, fmt.Errorf("give the token this host's public key: %w", err)
	}
	oaep := pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(hashAlg, mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))
	wrapped, err := s.WrapKey(s.handle, []*pkcs11.Mechanism{oaep}, public, object)
	if destroyErr := s.DestroyObject(s.handle, public); err == nil {
		err = destroyErr
	}
	if err != nil {
		return nil, fmt.Errorf("take the wrapping key out: %w", err)
	}
	return rsa.DecryptOAEP(hash(), rand.Reader, host, wrapped, nil)
}

// importKEK is the last resort: a key of this host, given to the token.
func importKEK(s *session, _ *rsa.PrivateKey) (*kek, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	object, err := s.CreateObject(s.handle, append(kekTemplate(),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, secret), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false)))
	if err != nil {
		Wipe(secret)
		return nil, fmt.Errorf("import a wrapping key: %w", err)
	}
	return newKEK(object, secret)
}

func kekTemplate() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	}
}

func newKEK(object pkcs11.ObjectHandle, secret []byte) (*kek, error) {
	defer Wipe(secret)
	if len(secret) != 32 {
		return nil, fmt.Errorf("the token made a wrapping key of %d bytes, not 32", len(secret))
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return &kek{object: object, block: block}, nil
}
