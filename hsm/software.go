package hsm

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// Software returns a source that makes keys with Go's standard library and its
// random numbers, which are the operating system's.
func Software(alg Algorithm) (Source, error) {
	if _, err := ParseAlgorithm(string(alg)); err != nil {
		return nil, err
	}
	return software(alg), nil
}

type software Algorithm

func (s software) Close() error { return nil }

func (s software) AtOnce() int { return 0 }

func (s software) Load() Load { return Load{} }

func (s software) Origin() Origin {
	return Origin{Mode: ModeSoftware, Algorithm: Algorithm(s)}
}

// Generate honours ctx before the key is made; an RSA-4096 key then takes a
// second or two that can't be interrupted.
func (s software) Generate(ctx context.Context, _ string) (private, public []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	var der []byte
	secretly(func() {
		switch alg := Algorithm(s); alg {
		case Ed25519:
			der, public, err = generateEd25519()
		case ECDSAP256:
			der, public, err = generateEC(elliptic.P256(), &p256DER)
		case ECDSAP384:
			der, public, err = generateEC(elliptic.P384(), &p384DER)
		default:
			der, public, err = generateRSA(alg.bits())
		}
		if err == nil {
			private = privatePEM(der)
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("generate a key of kind %s: %w", string(s), err)
	}
	return private, public, nil
}

func generateEd25519() (private, public []byte, err error) {
	seed := make([]byte, ed25519.SeedSize)
	defer Wipe(seed)
	if _, err := rand.Read(seed); err != nil {
		return nil, nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	defer Wipe(key)
	private, public = ed25519DER(key)
	return private, public, nil
}

func generateEC(curve elliptic.Curve, der *curveDER) (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	defer wipeEC(key)
	return ecDER(key, der)
}

// ecDER returns PKCS#8 and SPKI of a key.
func ecDER(key *ecdsa.PrivateKey, der *curveDER) (private, public []byte, err error) {
	scalar, err := key.Bytes()
	if err != nil {
		return nil, nil, err
	}
	defer Wipe(scalar)
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, nil, err
	}
	return der.private(scalar, point), der.public(point), nil
}

func generateRSA(bits int) (private, public []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, nil, err
	}
	defer wipeRSA(key)
	if private, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, nil, err
	}
	public, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return private, public, err
}
