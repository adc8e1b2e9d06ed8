//go:build cgo

package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/eclipse-keypont/crypto11"
)

// Inventory is List with the key pairs of the one token that cfg.URI names,
// which takes a login.
func Inventory(ctx context.Context, cfg Config) (*Listing, error) {
	l, err := List(ctx, cfg)
	if err != nil {
		return nil, err
	}
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	if len(l.Tokens) != 1 {
		return nil, refused("add token= or serial= to the URI", "%d tokens fit %s", len(l.Tokens), u)
	}
	keys, err := inventory(ctx, &cfg, u)
	if err != nil {
		return nil, err
	}
	l.Tokens[0].Keys = keys
	return l, nil
}

// inventory asks crypto11, and the pool where crypto11 can't: one Ed25519 key
// in the token is enough for that.
func inventory(ctx context.Context, cfg *Config, u *URI) ([]KeyInfo, error) {
	c11, err := openCrypto11(ctx, cfg, u)
	if err != nil {
		return nil, err
	}
	if c11 != nil {
		keys, err := crypto11Keys(c11)
		if closeErr := c11.Close(); closeErr != nil {
			return nil, closeErr
		}
		if err == nil {
			return keys, nil
		}
	}
	own := *cfg
	own.Limits = Limits{Sessions: 1}
	p, err := openPool(ctx, &own)
	if err != nil {
		return nil, err
	}
	found, err := use(ctx, p, func(s *session) ([]keyPair, error) { return s.keyPairs() })
	if err = errors.Join(err, p.close()); err != nil {
		return nil, asGone(err, u)
	}
	keys := make([]KeyInfo, 0, len(found))
	for _, k := range found {
		keys = append(keys, keyInfo(k.label, k.id, string(k.alg), k.spki))
	}
	return keys, nil
}

func crypto11Keys(c11 *crypto11.Context) ([]KeyInfo, error) {
	signers, err := c11.FindAllKeyPairs()
	if err != nil {
		return nil, err
	}
	keys := make([]KeyInfo, 0, len(signers))
	for _, signer := range signers {
		attributes, err := c11.GetAttributes(signer, []crypto11.AttributeType{crypto11.CkaLabel, crypto11.CkaId})
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(signer.Public())
		if err != nil {
			return nil, err
		}
		keys = append(keys, keyInfo(string(attributes[crypto11.CkaLabel].Value), attributes[crypto11.CkaId].Value, keyName(signer.Public()), spki))
	}
	return keys, nil
}

func keyInfo(label string, id []byte, algorithm string, spki []byte) KeyInfo {
	sum := sha256.Sum256(spki)
	return KeyInfo{Label: label, ID: hex.EncodeToString(id), Algorithm: algorithm, SPKI: hex.EncodeToString(sum[:])}
}

// keyName names an algorithm, also one that isn't for devices.
func keyName(public crypto.PublicKey) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return "rsa-" + strconv.Itoa(key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ecdsa-" + strings.ToLower(strings.ReplaceAll(key.Params().Name, "-", ""))
	}
	return fmt.Sprintf("%T", public)
}
