//go:build cgo

package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/miekg/pkcs11"
)

// Signer is a key in a token that signs for the audit or for certificates:
// ECDSA, RSA (PKCS#1 v1.5) or Ed25519, where the module can. It implements
// crypto.Signer and may be used by many goroutines at once. Every signature is
// verified before it is handed out.
type Signer struct {
	ctx     context.Context // of OpenSigner, without its end: crypto.Signer takes none
	pool    *pool
	alg     Algorithm
	spki    []byte
	public  crypto.PublicKey
	custody Custody

	mu    sync.Mutex // guards the rest
	key   pkcs11.ObjectHandle
	since int64 // the module's generation in which key was found
}

// OpenSigner finds the private key that cfg.URI names by object, id or both,
// and proves by a trial signature that it can sign and which public key is its
// own: names prove nothing. No key, more than one, and one that can't sign are
// a *RefusedError.
func OpenSigner(ctx context.Context, cfg Config) (*Signer, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, &RefusedError{Err: err, Hint: "write pkcs11:token=LABEL;object=KEY?module-path=/path/to/module.so&pin-source=/path/to/pin"}
	}
	if u.Object == "" && len(u.ID) == 0 {
		return nil, refused("add object=LABEL or id=%01 to it; `keymill hsm list --objects` shows the keys", "the URI %s names no key", u)
	}
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	s := &Signer{ctx: context.WithoutCancel(ctx), pool: p}
	if _, err := tryTwice(ctx, p, func(session *session) (struct{}, error) { return struct{}{}, s.find(session) }); err != nil {
		return nil, errors.Join(asGone(err, p.uri), p.close())
	}
	return s, nil
}

// find looks for the key, proves it, and reads what the token says of it. A
// second time it must be the same key.
func (s *Signer) find(session *session) error {
	key, err := session.signingKey(s.pool.uri)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spki != nil && !bytes.Equal(s.spki, key.spki) {
		return refused("name the key by its id, too", "%s names another key than at the start", s.pool.uri)
	}
	if s.spki == nil {
		if s.public, err = x509.ParsePKIXPublicKey(key.spki); err != nil {
			return err
		}
		s.custody = s.pool.custody(session, key)
	}
	s.alg, s.spki, s.key, s.since = key.alg, key.spki, key.private, session.generation
	return nil
}

// handle returns the key's handle in this generation of the module.
func (s *Signer) handle(session *session) (pkcs11.ObjectHandle, error) {
	s.mu.Lock()
	key, since := s.key, s.since
	s.mu.Unlock()
	if since == session.generation {
		return key, nil
	}
	if err := s.find(session); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key, nil
}

// Public implements crypto.Signer.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Custody says where the key lies, and what its token says of it.
func (s *Signer) Custody() Custody { return s.custody }

// Sign implements crypto.Signer. For Ed25519 digest is the message itself.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signed, err := tryTwice(s.ctx, s.pool, func(session *session) ([]byte, error) {
		key, err := s.handle(session)
		if err != nil {
			return nil, err
		}
		return session.sign(s.alg, key, digest, opts)
	})
	if err == nil {
		err = verify(s.public, opts.HashFunc(), digest, signed)
	}
	if err != nil {
		return nil, asGone(err, s.pool.uri)
	}
	return signed, nil
}

// Close ends the sessions.
func (s *Signer) Close() error { return s.pool.close() }

// signingKey returns the one private key that u names, with the public key that
// verifies what it signs.
func (s *session) signingKey(u *URI) (*keyPair, error) {
	private, err := s.find(append(u.template(), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))...)
	if err != nil {
		return nil, err
	}
	if len(private) != 1 {
		return nil, refused("`keymill hsm list --objects` shows the keys; name one by object and id, and give each key an id of its own (pkcs11-tool --set-id)",
			"%d private keys fit %s, and one is needed", len(private), u)
	}
	names, err := s.attributes(private[0], pkcs11.CKA_ID, pkcs11.CKA_LABEL, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, fmt.Errorf("read the key's name: %w", err)
	}
	key := &keyPair{private: private[0], id: names[0], label: string(names[1])}
	if s.flag(key.private, pkcs11.CKA_ALWAYS_AUTHENTICATE) {
		return nil, refused("make a key for this purpose without CKA_ALWAYS_AUTHENTICATE (pkcs11-tool: without --always-auth)",
			"the key %s wants the PIN for each signature, at which nobody can stand", u)
	}
	halves, err := s.publicHalves(key, names[2])
	if err != nil {
		return nil, err
	}
	return key, s.pair(u, key, halves)
}

// publicHalves returns the public keys that may belong to a private one: those
// of its type, the ones of the same id first.
func (s *session) publicHalves(key *keyPair, keyType []byte) ([]pkcs11.ObjectHandle, error) {
	kind := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), {Type: pkcs11.CKA_KEY_TYPE, Value: keyType},
	}
	if len(key.id) > 0 {
		named, err := s.find(append(kind, pkcs11.NewAttribute(pkcs11.CKA_ID, key.id))...)
		if err != nil || len(named) > 0 {
			return named, err
		}
	}
	return s.find(kind...)
}

// pair has the key sign, and takes the public key that verifies it.
func (s *session) pair(u *URI, key *keyPair, halves []pkcs11.ObjectHandle) error {
	if len(halves) == 0 {
		return refused("write its public half into the token, too (pkcs11-tool --write-object --type pubkey)", "the key %s has no public half in the token", u)
	}
	var known int
	digest := make([]byte, sha256.Size)
	if _, err := rand.Read(digest); err != nil {
		return err
	}
	signed := map[Algorithm][]byte{}
	for _, half := range halves {
		alg, spki := s.identify(half)
		if spki == nil {
			continue
		}
		known++
		public, err := x509.ParsePKIXPublicKey(spki)
		if err != nil {
			continue
		}
		if signed[alg] == nil {
			if signed[alg], err = s.sign(alg, key.private, digest, crypto.SHA256); err != nil {
				return cantSign(u, err)
			}
		}
		if verify(public, crypto.SHA256, digest, signed[alg]) == nil {
			key.alg, key.spki = alg, spki
			return nil
		}
	}
	if known == 0 {
		return refused(fmt.Sprintf("make a key of one of %v", Algorithms()), "the key %s is of a kind or length that isn't used here: %s", u, s.describeKey(halves[0]))
	}
	return refused("the token's halves got mixed up: make a new key pair, and give it an id of its own",
		"no public key in the token verifies what the key %s signs", u)
}

// cantSign tells a key that can't sign from a token that can't be reached.
func cantSign(u *URI, err error) error {
	if !isCKR(err, append([]pkcs11.Error{pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_FUNCTION_REJECTED, pkcs11.CKR_DATA_LEN_RANGE}, cantErrors...)...) {
		return err
	}
	return refused("make a key that may sign (CKA_SIGN; pkcs11-tool --keypairgen --usage-sign) without a PIN for each signature", "the key %s can't sign: %w", u, err)
}

// describeKey names a public key of a kind that isn't used here.
func (s *session) describeKey(public pkcs11.ObjectHandle) string {
	if values, err := s.attributes(public, pkcs11.CKA_MODULUS); err == nil && len(values[0]) > 0 {
		return fmt.Sprintf("RSA of %d bits", 8*len(bytes.TrimLeft(values[0], "\x00")))
	}
	if values, err := s.attributes(public, pkcs11.CKA_EC_PARAMS); err == nil {
		return fmt.Sprintf("a curve with the parameters %x", values[0])
	}
	return "unknown"
}

// template are the attributes by which u names a key.
func (u *URI) template() []*pkcs11.Attribute {
	var template []*pkcs11.Attribute
	if u.Object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.Object))
	}
	if len(u.ID) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, u.ID))
	}
	return template
}

// custody reads what the token says of a signing key.
func (p *pool) custody(s *session, key *keyPair) Custody {
	o := p.origin("", key.alg)
	c := Custody{
		Algorithm: key.alg, Label: key.label, ID: fmt.Sprintf("%x", key.id), Module: o.Module, ModuleVersion: o.ModuleVersion,
		ModulePath: o.ModulePath, ModuleSHA256: o.ModuleSHA256, TokenLabel: o.TokenLabel, TokenSerial: o.TokenSerial, TokenModel: o.TokenModel,
		Firmware: o.Firmware, Extractable: s.flag(key.private, pkcs11.CKA_EXTRACTABLE), Sensitive: s.flag(key.private, pkcs11.CKA_SENSITIVE),
		Local:            s.flag(key.private, pkcs11.CKA_LOCAL),
		AlwaysSensitive:  s.flag(key.private, pkcs11.CKA_ALWAYS_SENSITIVE),
		NeverExtractable: s.flag(key.private, pkcs11.CKA_NEVER_EXTRACTABLE),
	}
	c.Certificates = s.certificatesOf(key.spki)
	return c
}

// certificatesOf returns the certificates (DER) in the token that are over a
// public key: a CA's, or the attestation of the key's origin that some tokens
// make. A token without any says nothing by it.
func (s *session) certificatesOf(spki []byte) [][]byte {
	objects, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE))
	if err != nil {
		return nil
	}
	var found [][]byte
	for _, object := range objects {
		values, err := s.attributes(object, pkcs11.CKA_VALUE)
		if err != nil {
			continue
		}
		if cert, err := x509.ParseCertificate(values[0]); err == nil && bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) {
			found = append(found, values[0])
		}
	}
	return found
}

var errSignature = errors.New("the token's signature doesn't verify with its public key")

// verify checks a signature as sign makes it.
func verify(public crypto.PublicKey, hash crypto.Hash, digest, signed []byte) error {
	if key, ok := public.(*rsa.PublicKey); ok {
		if rsa.VerifyPKCS1v15(key, hash, digest, signed) != nil {
			return errSignature
		}
		return nil
	}
	if !verifies(public, digest, signed) {
		return errSignature
	}
	return nil
}
