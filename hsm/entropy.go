//go:build cgo

package hsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"
)

// entropyBatch is how many bytes are asked of the token at once: a call of a
// networked HSM costs the same for 32 bytes. Small HSMs refuse so many:
// randomPortion halves them down to entropyLeast.
const (
	entropyBatch = 2048
	entropyLeast = 16
)

// errRepeats is the failure of the only health test that makes sense at this
// distance from the noise source.
var errRepeats = errors.New("the token's random numbers repeat")

// entropy is the source of ModeEntropy: keys made here, of the token's random numbers.
type entropy struct {
	pool   *pool
	alg    Algorithm
	budget budget
	// portion is how many bytes the token gives at once.
	portion int

	mu   sync.Mutex // guards the rest
	rest []byte     // random bytes not yet used; wiped as they are
	last []byte     // the last draw of 32 bytes, to notice repetition
}

func openEntropy(ctx context.Context, p *pool, alg Algorithm, cfg *Config) (Source, error) {
	e := &entropy{pool: p, alg: alg}
	e.budget.lotLimit(cfg.Limits.Keys)
	var err error
	if e.portion, err = tryTwice(ctx, p, (*session).randomPortion); err == nil {
		var first []byte
		first, err = e.draw(ctx, 32)
		Wipe(first)
	}
	if err != nil {
		if _, isGone := errors.AsType[*GoneError](err); isGone || errors.Is(err, context.Canceled) {
			return nil, err
		}
		return nil, refused("use --keys hsm or another token", "the token gives no random numbers: %w", err)
	}
	return e, nil
}

// draw returns n random bytes of the token, which the caller wipes. Callers
// that find none left ask for more at the same time, each in a session of its
// own: what one of them leaves is there for the next.
func (e *entropy) draw(ctx context.Context, n int) ([]byte, error) {
	for {
		out, err := e.take(n)
		if out != nil || err != nil {
			return out, err
		}
		fresh, err := tryTwice(ctx, e.pool, func(s *session) ([]byte, error) {
			return s.random(e.portion)
		})
		if err != nil {
			return nil, err
		}
		e.put(fresh)
	}
}

// random asks the token for n bytes.
func (s *session) random(n int) ([]byte, error) {
	random, err := s.GenerateRandom(s.handle, n)
	if err == nil && len(random) != n {
		err = fmt.Errorf("the token gave %d random bytes, not %d", len(random), n)
	}
	return random, err
}

// randomPortion finds out how many random bytes the token gives at once, at
// most entropyBatch.
func (s *session) randomPortion() (int, error) {
	var first error
	for portion := entropyBatch; portion >= entropyLeast; portion /= 2 {
		random, err := s.random(portion)
		Wipe(random)
		if err == nil {
			return portion, nil
		}
		if first == nil {
			first = err
		}
		if isCKR(err, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_SESSION_CLOSED) {
			break // the session is lost: less won't help
		}
	}
	return 0, first
}

// put keeps fresh random bytes, and wipes where they and the old ones were.
func (e *entropy) put(fresh []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := slices.Concat(e.rest, fresh)
	Wipe(e.rest)
	Wipe(fresh)
	e.rest = all
}

// take returns n of the bytes that are there, nil if there are too few.
func (e *entropy) take(n int) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.rest) < n {
		return nil, nil
	}
	out := bytes.Clone(e.rest[:n])
	Wipe(e.rest[:n])
	e.rest = e.rest[n:]
	if bytes.Equal(out[:16], e.last) || allZero(out) {
		return nil, gone("don't use this token any more until its maker has explained it", "%w", errRepeats)
	}
	e.last = append(e.last[:0], out[:16]...)
	return out, nil
}

// AtOnce implements Source.
func (e *entropy) AtOnce() int { return e.pool.atOnce() }

// Load implements Source.
func (e *entropy) Load() Load { return e.pool.meter.read() }

// Generate implements Source.
func (e *entropy) Generate(ctx context.Context, _ string) (private, public []byte, err error) {
	e.pool.meter.change(0, 0, 1)
	defer e.pool.meter.change(0, 0, -1)
	if err := e.budget.take(); err != nil {
		return nil, nil, err
	}
	for {
		size := 32
		if e.alg == ECDSAP384 {
			size = 48
		}
		seed, err := e.draw(ctx, size)
		if err := e.pool.verdict(err); err != nil {
			return nil, nil, fmt.Errorf("random numbers of the token: %w", err)
		}
		private, public, err = keyFromSeed(e.alg, seed)
		if err == nil {
			return private, public, nil
		}
	}
}

// keyFromSeed makes a key of the seed, and wipes it. It fails for the one in
// 2^32 seeds that is no scalar of P-256: rejecting them keeps the distribution even.
func keyFromSeed(alg Algorithm, seed []byte) (private, public []byte, err error) {
	defer Wipe(seed)
	secretly(func() {
		var der []byte
		switch alg {
		case Ed25519:
			key := ed25519.NewKeyFromSeed(seed)
			defer Wipe(key)
			der, public = ed25519DER(key)
		case ECDSAP256:
			der, public, err = ecFromSeed(elliptic.P256(), &p256DER, seed)
		default:
			der, public, err = ecFromSeed(elliptic.P384(), &p384DER, seed)
		}
		if err == nil {
			private = privatePEM(der)
		}
	})
	return private, public, err
}

func ecFromSeed(curve elliptic.Curve, der *curveDER, seed []byte) (private, public []byte, err error) {
	key, err := ecdsa.ParseRawPrivateKey(curve, seed)
	if err != nil {
		return nil, nil, err
	}
	defer wipeEC(key)
	return ecDER(key, der)
}

// Origin implements Source.
func (e *entropy) Origin() Origin {
	o := e.pool.origin(ModeEntropy, e.alg)
	o.Mechanism = "C_GenerateRandom"
	o.Warnings = []string{"only the random numbers are the token's: keys are made in this host's memory"}
	return o
}

// Close implements Source.
func (e *entropy) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	Wipe(e.rest)
	Wipe(e.last)
	return e.pool.close()
}

// MadeBy implements Maker.
func (e *entropy) MadeBy([]byte) string { return e.pool.origin(ModeEntropy, e.alg).Name() }
