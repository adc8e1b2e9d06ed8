//go:build cgo

package hsm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// Inventory is List with the key pairs of the one token that cfg.URI names,
// which takes a login.
func Inventory(ctx context.Context, cfg Config) (*Listing, error) {
	cfg.Limits = Limits{Sessions: 1}
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	keys, err := use(ctx, p, func(s *session) ([]keyPair, error) { return s.keyPairs() })
	var l *Listing
	if err == nil {
		l, err = invoke(ctx, p.mod, func() (*Listing, error) { return p.mod.list(p.uri) }, nil)
	}
	if err = errors.Join(err, p.close()); err != nil {
		return nil, asGone(err, p.uri)
	}
	if len(l.Tokens) != 1 {
		return nil, refused("add token= or serial= to the URI", "%d tokens fit %s", len(l.Tokens), p.uri)
	}
	for _, k := range keys {
		info := KeyInfo{Label: k.label, ID: hex.EncodeToString(k.id), Algorithm: string(k.alg)}
		if k.spki != nil {
			sum := sha256.Sum256(k.spki)
			info.SPKI = hex.EncodeToString(sum[:])
		}
		l.Tokens[0].Keys = append(l.Tokens[0].Keys, info)
	}
	return l, nil
}
