//go:build cgo

package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// device is the source of ModeToken: keys that stay where they are made.
type device struct {
	pool    *pool
	alg     Algorithm
	journal Journal
	objects int
	budget  budget
	origin  Origin

	mu   sync.Mutex        // guards uris
	uris map[string]string // by SPKI
}

// openDevice tries the token with a key that it makes, signs with and destroys.
func openDevice(ctx context.Context, p *pool, alg Algorithm, cfg *Config) (Source, error) {
	if cfg.Journal == nil {
		return nil, refused("give a journal of token objects", "keys that stay in a token are made only with a journal")
	}
	d := &device{pool: p, alg: alg, journal: cfg.Journal, objects: cfg.Limits.Objects, uris: map[string]string{}}
	d.budget.most = int64(cfg.Limits.Keys)
	d.origin = p.origin(ModeToken, alg)
	d.origin.Mechanism = "generated in the token, not extractable"
	_, err := tryTwice(ctx, p, func(s *session) (struct{}, error) {
		id, pair, err := d.make(ctx, s, probeLabel)
		if err != nil {
			return struct{}{}, err
		}
		d.origin.AlwaysSensitive = s.flag(pair.private, pkcs11.CKA_ALWAYS_SENSITIVE)
		d.origin.NeverExtractable = s.flag(pair.private, pkcs11.CKA_NEVER_EXTRACTABLE)
		return struct{}{}, errors.Join(s.destroy(pair), d.journal.Done(ctx, id))
	})
	if err == nil {
		return d, nil
	}
	if _, isGone := errors.AsType[*GoneError](err); isGone || errors.Is(err, context.Canceled) {
		return nil, err
	}
	return nil, refused("`keymill hsm test` shows what this token can do", "this token can't hold device keys of kind %s: %w", alg, err)
}

// make makes a key that stays, and proves that it signs. A key that doesn't is destroyed.
func (d *device) make(ctx context.Context, s *session, label string) (id []byte, p *pair, err error) {
	if d.objects > 0 {
		n, err := s.countObjects()
		if err != nil {
			return nil, nil, err
		}
		if n+2 > d.objects {
			return nil, nil, gone("remove keys that are no longer needed (`keymill hsm gc` finds leftovers), or raise the limit of objects",
				"the token holds %d objects, and the limit is %d", n, d.objects)
		}
	}
	if id, err = (&idMaker{ctx: ctx, journal: d.journal}).newID(label); err != nil {
		return nil, nil, err
	}
	if p, err = s.generate(d.alg, traits{token: true, id: id, label: label}); err != nil {
		return nil, nil, err
	}
	err = s.proveKept(d.alg, p)
	if err != nil {
		if destroyErr := s.destroy(p); destroyErr == nil {
			destroyErr = d.journal.Done(ctx, id)
			err = errors.Join(err, destroyErr)
		}
		return nil, nil, err
	}
	return id, p, nil
}

// proveKept checks that the token keeps the private key and signs with it.
func (s *session) proveKept(alg Algorithm, p *pair) error {
	if s.flag(p.private, pkcs11.CKA_EXTRACTABLE) || !s.flag(p.private, pkcs11.CKA_TOKEN) {
		return errors.New("the token made a key that can be exported or doesn't last")
	}
	message := make([]byte, 64)
	if _, err := rand.Read(message); err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(p.spki)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	signed, err := s.sign(alg, p.private, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	valid := false
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		valid = ecdsa.VerifyASN1(key, digest[:], signed)
	case *rsa.PublicKey:
		valid = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signed) == nil
	case ed25519.PublicKey:
		valid = ed25519.Verify(key, digest[:], signed)
	}
	if !valid {
		return errors.New("the token's signature doesn't verify with its public key")
	}
	return nil
}

// Generate makes a key that stays in the token: private is nil. A device whose
// session was lost is tried once more; the first key, if there was one, is in
// the journal for gc.
func (d *device) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	if err := d.budget.take(); err != nil {
		return nil, nil, err
	}
	type made struct {
		id   []byte
		pair *pair
	}
	key, err := tryTwice(ctx, d.pool, func(s *session) (made, error) {
		id, pair, err := d.make(ctx, s, label)
		return made{id, pair}, err
	})
	if errors.Is(err, errHung) {
		err = asGone(err, d.pool.uri)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a key in the token: %w", err)
	}
	u := URI{Token: d.origin.TokenLabel, Serial: d.origin.TokenSerial, Object: label, ID: key.id, Type: "private"}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uris[string(key.pair.spki)] = u.String()
	return nil, key.pair.spki, nil
}

// URI implements Locator.
func (d *device) URI(public []byte) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if uri, ok := d.uris[string(public)]; ok {
		return uri, nil
	}
	return "", errors.New("the key wasn't made in this run: its URI stands in the image that was staged for it")
}

// Origin implements Source.
func (d *device) Origin() Origin { return d.origin }

// Close implements Source. The keys stay.
func (d *device) Close() error { return d.pool.close() }
