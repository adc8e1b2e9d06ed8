//go:build cgo

package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
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
	budget  budget // the lot's limit of keys
	room    budget // keys for which the token has room
	origin  Origin

	mu   sync.Mutex        // guards uris
	uris map[string]string // by SPKI
}

// openDevice tries the token with a key that it makes, signs with and destroys.
func openDevice(ctx context.Context, p *pool, alg Algorithm, cfg *Config) (Source, error) {
	if cfg.Journal == nil {
		return nil, refused("give a journal of token objects", "keys that stay in a token are made only with a journal")
	}
	d := &device{pool: p, alg: alg, journal: cfg.Journal, uris: map[string]string{}}
	d.budget.lotLimit(cfg.Limits.Keys)
	d.origin = p.origin(ModeToken, alg)
	d.origin.Mechanism = "generated in the token, not extractable"
	if err := d.fit(ctx, cfg.Limits.Objects); err != nil {
		return nil, err
	}
	_, err := tryTwice(ctx, p, func(s *session) (_ struct{}, err error) {
		d.origin, err = d.ids(ctx).tryKept(s, alg, d.origin)
		return struct{}{}, err
	})
	if err == nil {
		return d, nil
	}
	if _, isGone := errors.AsType[*GoneError](err); isGone || errors.Is(err, context.Canceled) {
		return nil, err
	}
	return nil, refused("`keymill hsm test` shows what this token can do", "this token can't hold device keys of kind %s: %w", alg, err)
}

// fit finds out for how many keys, two objects each, the token has room. It is
// counted once: tokens search linearly.
func (d *device) fit(ctx context.Context, most int) error {
	if most <= 0 {
		return nil
	}
	there, err := use(ctx, d.pool, (*session).countObjects)
	if err != nil {
		return asGone(err, d.pool.uri)
	}
	full := gone("remove keys that are no longer needed (`keymill hsm gc` finds leftovers), or raise the limit of objects",
		"the token held %d objects when this began, and the limit is %d", there, most)
	if most-there < 2 {
		return full
	}
	d.room.limit((most-there)/2, full)
	return nil
}

func (d *device) ids(ctx context.Context) *idMaker {
	return &idMaker{ctx: ctx, journal: d.journal, token: tokenURI(d.pool.token)}
}

// tryKept makes a key that stays, proves it and destroys it, and adds to the
// origin what the token says of it.
func (m *idMaker) tryKept(s *session, alg Algorithm, o Origin) (Origin, error) {
	id, err := m.newID(probeLabel)
	if err != nil {
		return o, err
	}
	p, err := s.generate(alg, traits{token: true, id: id, label: probeLabel})
	if err != nil {
		return o, err
	}
	proof, err := s.proveKept(alg, p)
	if err == nil {
		err = proof.check()
	}
	o.AlwaysSensitive = s.flag(p.private, pkcs11.CKA_ALWAYS_SENSITIVE)
	o.NeverExtractable = s.flag(p.private, pkcs11.CKA_NEVER_EXTRACTABLE)
	if destroyErr := s.destroy(p); destroyErr != nil {
		return o, errors.Join(err, destroyErr)
	}
	return o, errors.Join(err, m.journal.Done(m.ctx, id))
}

// proof is a signature by a key that stays in its token.
type proof struct {
	alg            Algorithm
	spki           []byte
	digest, signed []byte
}

// proveKept checks that the token keeps the private key, and signs with it.
func (s *session) proveKept(alg Algorithm, p *pair) (*proof, error) {
	if s.flag(p.private, pkcs11.CKA_EXTRACTABLE) || !s.flag(p.private, pkcs11.CKA_TOKEN) {
		return nil, errors.New("the token made a key that can be exported or doesn't last")
	}
	digest := make([]byte, sha256.Size)
	if _, err := rand.Read(digest); err != nil {
		return nil, err
	}
	signed, err := s.sign(alg, p.private, digest, crypto.SHA256)
	return &proof{alg, p.spki, digest, signed}, err
}

// check verifies the signature, for which no session is needed.
func (p *proof) check() error {
	public, err := x509.ParsePKIXPublicKey(p.spki)
	if err != nil {
		return err
	}
	return verify(public, crypto.SHA256, p.digest, p.signed)
}

// verifies checks a signature that needs no hash's name.
func verifies(public crypto.PublicKey, digest, signed []byte) bool {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signed)
	case ed25519.PublicKey:
		return ed25519.Verify(key, digest, signed)
	}
	return false
}

// AtOnce implements Source.
func (d *device) AtOnce() int { return d.pool.atOnce() }

// Load implements Source.
func (d *device) Load() Load { return d.pool.meter.read() }

// Generate makes a key that stays in the token: private is nil. A device whose
// session was lost is tried once more; the first key, if there was one, is in
// the journal for gc.
func (d *device) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	d.pool.meter.change(0, 0, 1)
	defer d.pool.meter.change(0, 0, -1)
	if err := errors.Join(d.budget.take(), d.room.take()); err != nil {
		return nil, nil, err
	}
	id, spki, err := d.once(ctx, label, false)
	if retryable(err) {
		id, spki, err = d.once(ctx, label, true)
	}
	if err := d.pool.verdict(err); err != nil {
		return nil, nil, fmt.Errorf("make a key in the token: %w", err)
	}
	u := URI{Token: d.origin.TokenLabel, Serial: d.origin.TokenSerial, Object: label, ID: id, Type: "private"}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uris[string(spki)] = u.String()
	return nil, spki, nil
}

// once occupies a session for what is done in the token, and for nothing else.
// A key that doesn't prove itself stays in the journal, for gc.
func (d *device) once(ctx context.Context, label string, again bool) (id, spki []byte, err error) {
	if id, err = d.ids(ctx).newID(label); err != nil {
		return nil, nil, err
	}
	proof, err := useSession(ctx, d.pool, again, func(s *session) (*proof, error) {
		p, err := s.generate(d.alg, traits{token: true, id: id, label: label})
		if err != nil {
			return nil, err
		}
		proof, err := s.proveKept(d.alg, p)
		if err != nil {
			err = errors.Join(err, s.destroy(p))
		}
		return proof, err
	})
	if err == nil {
		err = proof.check()
	}
	if err != nil {
		return nil, nil, err
	}
	return id, proof.spki, nil
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

// MadeBy implements Maker.
func (d *device) MadeBy([]byte) string { return d.origin.Name() }
