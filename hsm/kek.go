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
	"slices"

	"github.com/miekg/pkcs11"
)

// kek is the key that wraps device keys. One lives in each session, as a session
// object, for as long as the session does. It is an AES-256 key that the host
// holds too, or the public half of the host's own RSA key.
type kek struct {
	object pkcs11.ObjectHandle
	block  cipher.Block    // nil for an RSA key
	host   *rsa.PrivateKey // nil for an AES key
	note   string          // what an auditor should know of how it was made
}

// wipe drops the host's half. crypto/aes offers no way to zero the key schedule.
func (k *kek) wipe() {
	if k != nil {
		k.block, k.host = nil, nil
	}
}

// transport is a way to come to share a kek with the token.
type transport struct {
	name  string // for the audit
	clear bool   // the kek enters the token in clear, which needs consent
	make  func(s *session, host *rsa.PrivateKey) (*kek, error)
}

// transports are tried in this order.
func transports() []transport {
	return []transport{
		{name: "made in the token, out once by RSA-3072 OAEP SHA-256", make: exportKEK(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, sha256.New)},
		{name: "made in the token, out once by RSA-3072 OAEP SHA-1", make: exportKEK(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, sha1.New)},
		{name: "none: each key leaves under this host's RSA-3072 key", make: hostKEK},
		{name: "made on this host, imported in clear", clear: true, make: importKEK},
	}
}

// exportKEK has the token make the key, takes it out under the host's ephemeral
// RSA key, and then forbids that it ever leaves again.
func exportKEK(hashAlg, mgf uint, hash func() hash.Hash) func(*session, *rsa.PrivateKey) (*kek, error) {
	return func(s *session, host *rsa.PrivateKey) (*kek, error) {
		object, err := s.withTemplate(kekTemplate(pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)),
			func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
				return s.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template)
			})
		if err != nil {
			return nil, fmt.Errorf("make a wrapping key in the token: %w", err)
		}
		secret, err := s.exportTo(host, object, hashAlg, mgf, hash)
		if err != nil {
			return nil, errors.Join(err, s.DestroyObject(s.handle, object))
		}
		object, note, err := s.lock(object)
		if err != nil {
			Wipe(secret)
			return nil, err
		}
		k, err := newKEK(object, secret)
		if err == nil {
			k.note = note
		}
		return k, err
	}
}

// lock forbids that a wrapping key leaves the token again: by changing it, or
// by a copy that is locked. Where the module can do neither the key stays as it
// is, and the note says so: it is a session object, which no other program sees.
func (s *session) lock(object pkcs11.ObjectHandle) (locked pkcs11.ObjectHandle, note string, err error) {
	never := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false)}
	changeErr := s.SetAttributeValue(s.handle, object, never)
	if changeErr == nil {
		return object, "", nil
	}
	if !isCKR(changeErr, cantErrors...) {
		return 0, "", errors.Join(fmt.Errorf("lock the wrapping key: %w", changeErr), s.DestroyObject(s.handle, object))
	}
	if locked, err = s.CopyObject(s.handle, object, append(never, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))); err == nil {
		return locked, "", s.DestroyObject(s.handle, object)
	}
	return object, fmt.Sprintf("the wrapping key stays extractable until its session ends, as the module can't change that (%s)", explain(changeErr.Error())), nil
}

// hostKey gives the token the host's public key.
func (s *session) hostKey(host *rsa.PrivateKey) (pkcs11.ObjectHandle, error) {
	object, err := s.withTemplate([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, host.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}, func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		return s.CreateObject(s.handle, template)
	})
	if err != nil {
		return 0, fmt.Errorf("give the token this host's public key: %w", err)
	}
	return object, nil
}

// exportTo wraps an object under the host's RSA key, and unwraps it here.
func (s *session) exportTo(host *rsa.PrivateKey, object pkcs11.ObjectHandle, hashAlg, mgf uint, hash func() hash.Hash) ([]byte, error) {
	public, err := s.hostKey(host)
	if err != nil {
		return nil, err
	}
	oaep := pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(hashAlg, mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))
	wrapped, err := s.WrapKey(s.handle, []*pkcs11.Mechanism{oaep}, public, object)
	if destroyErr := s.DestroyObject(s.handle, public); err == nil {
		err = destroyErr
	}
	if err != nil {
		return nil, fmt.Errorf("take the wrapping key out: %w", err)
	}
	secret, err := rsa.DecryptOAEP(hash(), rand.Reader, host, wrapped, nil)
	if err != nil {
		return nil, fmt.Errorf("take the wrapping key out: %w", errUnwrap)
	}
	return secret, nil
}

// hostKEK wraps under the host's RSA key itself (CKM_RSA_AES_KEY_WRAP).
func hostKEK(s *session, host *rsa.PrivateKey) (*kek, error) {
	object, err := s.hostKey(host)
	if err != nil {
		return nil, err
	}
	return &kek{object: object, host: host}, nil
}

// importKEK is the last resort: a key of this host, given to the token.
func importKEK(s *session, _ *rsa.PrivateKey) (*kek, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	object, err := s.withTemplate(kekTemplate(pkcs11.NewAttribute(pkcs11.CKA_VALUE, secret), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false)),
		func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
			return s.CreateObject(s.handle, template)
		})
	if err != nil {
		Wipe(secret)
		return nil, fmt.Errorf("import a wrapping key: %w", err)
	}
	return newKEK(object, secret)
}

func kekTemplate(more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	}, more...)
}

// withTemplate makes an object with a template, and where the module can't, with
// what some want besides: CKA_PRIVATE, and CKA_LABEL, too. The error is the first one.
func (s *session) withTemplate(template []*pkcs11.Attribute, make func([]*pkcs11.Attribute) (pkcs11.ObjectHandle, error)) (pkcs11.ObjectHandle, error) {
	object, err := make(template)
	for _, more := range fuller() {
		if !isCKR(err, cantErrors...) {
			break
		}
		if other, otherErr := make(append(slices.Clone(template), more...)); otherErr == nil {
			return other, nil
		}
	}
	return object, err
}

// fuller are the attributes that some modules want in each template.
func fuller() [][]*pkcs11.Attribute {
	private := pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true)
	return [][]*pkcs11.Attribute{{private}, {private, pkcs11.NewAttribute(pkcs11.CKA_LABEL, probeLabel)}}
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
