//go:build cgo

package hsm

import (
	"context"
	"errors"
)

// Kept is a token in which devices' keys stay (ModeToken), opened to take some
// of them back. One goroutine uses it at a time.
type Kept struct {
	pool    *pool
	journal Journal
	keys    map[string]*tokenKey // by SPKI
}

// OpenKept lists the keys that lie in the token. cfg.Journal is told what is
// destroyed; it may be nil.
func OpenKept(ctx context.Context, cfg Config) (*Kept, error) {
	cfg.Limits.Sessions = 1
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	k := &Kept{pool: p, journal: cfg.Journal, keys: map[string]*tokenKey{}}
	_, err = tryTwice(ctx, p, func(s *session) (struct{}, error) {
		all, err := s.census()
		for _, key := range all {
			if spki := s.public(key); spki != nil {
				k.keys[string(spki)] = key
			}
		}
		return struct{}{}, err
	})
	if err != nil {
		return nil, errors.Join(asGone(err, p.uri), p.close())
	}
	return k, nil
}

// Destroy destroys the key with this public half (SPKI, DER). It reports false
// where the token has no such key.
func (k *Kept) Destroy(ctx context.Context, public []byte) (bool, error) {
	key := k.keys[string(public)]
	if key == nil {
		return false, nil
	}
	_, err := use(ctx, k.pool, func(s *session) (struct{}, error) { return struct{}{}, s.destroyKey(key) })
	if err != nil {
		return false, asGone(err, k.pool.uri)
	}
	delete(k.keys, string(public))
	if k.journal != nil {
		err = k.journal.Done(ctx, key.id)
	}
	return true, err
}

// Close closes the token.
func (k *Kept) Close() error { return k.pool.close() }
