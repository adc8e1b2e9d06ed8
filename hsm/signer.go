//go:build cgo

package hsm

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"sync"

	"github.com/eclipse-keypont/crypto11"
	"github.com/miekg/pkcs11"
)

// Signer is a key in a token that signs for the audit: ECDSA, RSA (PKCS#1 v1.5)
// or Ed25519, where the module can. It implements crypto.Signer and may be used
// by many goroutines at once.
//
// crypto11 does the signing where it can. It can't where the module is already
// in use by a Source of this process, has initialisation arguments, or the key
// is Ed25519, and it doesn't recover a lost session: then the session pool of
// this package takes over.
type Signer struct {
	ctx    context.Context // of OpenSigner, without its end: crypto.Signer takes none
	cfg    Config
	public crypto.PublicKey

	mu    sync.Mutex // guards the rest
	outer crypto.Signer
	c11   *crypto11.Context // nil once the pool has taken over
	pool  *pool
	alg   Algorithm
}

// OpenSigner finds the private key that cfg.URI names by object, id or both; no
// key and more than one are refused.
func OpenSigner(ctx context.Context, cfg Config) (*Signer, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, &RefusedError{Err: err, Hint: "write pkcs11:token=LABEL;object=KEY?module-path=/path/to/module.so&pin-source=/path/to/pin"}
	}
	if u.Object == "" && len(u.ID) == 0 {
		return nil, refused("add object=LABEL or id=%01 to it; `keymill hsm list --objects` shows the keys", "the URI %s names no key", u)
	}
	s := &Signer{ctx: context.WithoutCancel(ctx), cfg: cfg}
	c11, err := openCrypto11(ctx, &cfg, u)
	if err != nil {
		return nil, err
	}
	if c11 != nil {
		found, err := c11.FindKeyPairs(u.ID, []byte(u.Object))
		if err == nil && len(found) == 1 {
			s.c11, s.outer, s.public = c11, found[0], found[0].Public()
			return s, nil
		}
		if err := c11.Close(); err != nil {
			return nil, err
		}
	}
	if err := s.openPool(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// openCrypto11 returns nil without an error where crypto11 can't be used. It
// logs in at most once: a refused PIN is final.
func openCrypto11(ctx context.Context, cfg *Config, u *URI) (*crypto11.Context, error) {
	if u.InitArgs != "" {
		return nil, nil
	}
	pin, err := cfg.pin(ctx, u)
	if err != nil {
		return nil, err
	}
	defer Wipe(pin)
	slot, token, err := locate(ctx, cfg, u)
	if err != nil || slot < 0 {
		return nil, err
	}
	c11, err := crypto11.Configure(&crypto11.Config{
		Path: token.path, SlotNumber: &slot, Pin: string(pin), MaxSessions: 2, LoginNotSupported: pin == nil,
	})
	switch {
	case err == nil:
		return c11, nil
	case isCKR(err, pinErrors...):
		return nil, explainLogin(token.label, err)
	}
	cfg.log().Info("crypto11 can't use the token; going on without it", "error", err)
	return nil, nil
}

type located struct{ path, label string }

// locate returns the slot of the token, and -1 where crypto11 would find the
// module initialised, which it takes for a failure. The slot number is used
// at once, before anything can renumber it.
func locate(ctx context.Context, cfg *Config, u *URI) (int, located, error) {
	m, err := openModule(ctx, u, cfg.timeout())
	if err != nil {
		return -1, located{}, err
	}
	defer m.close()
	slot := -1
	token, err := invoke(ctx, m, func() (pkcs11.TokenInfo, error) {
		number, token, err := m.findToken(u)
		slot = int(number)
		if err == nil {
			err = checkPIN(token)
		}
		return token, err
	}, nil)
	if err != nil {
		return -1, located{}, asGone(err, u)
	}
	if !m.owned {
		return -1, located{}, nil
	}
	return slot, located{path: m.path, label: trimmed(token.Label)}, nil
}

// openPool finds the key by the pool's own means.
func (s *Signer) openPool(ctx context.Context) error {
	cfg := s.cfg
	cfg.Limits = Limits{Sessions: 1}
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return err
	}
	key, err := use(ctx, p, func(session *session) (*keyPair, error) { return session.onlyKey(p.uri) })
	if err == nil && s.public == nil {
		s.public, err = x509.ParsePKIXPublicKey(key.spki)
	}
	if err != nil {
		return errors.Join(asGone(err, p.uri), p.close())
	}
	s.pool, s.alg, s.outer, s.c11 = p, key.alg, nil, nil
	return nil
}

// Public implements crypto.Signer.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign implements crypto.Signer. For Ed25519 digest is the message itself.
func (s *Signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outer != nil {
		signature, err := s.outer.Sign(rand, digest, opts)
		if _, lost := errors.AsType[pkcs11.Error](err); !lost {
			return signature, err
		}
		// crypto11's sessions stay dead. Its context is left behind unclosed,
		// because closing it would finalise the module for everybody.
		s.cfg.log().Warn("the audit key's session is lost; opening another", "error", err)
		if err := s.openPool(s.ctx); err != nil {
			return nil, err
		}
	}
	return tryTwice(s.ctx, s.pool, func(session *session) ([]byte, error) {
		key, err := session.onlyKey(s.pool.uri)
		if err != nil {
			return nil, err
		}
		return session.sign(key.alg, key.private, digest, opts)
	})
}

// Close ends the sessions.
func (s *Signer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.c11 != nil:
		return s.c11.Close()
	case s.pool != nil:
		return s.pool.close()
	}
	return nil
}
