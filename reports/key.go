package reports

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keymill/pipeline"
)

// LoadOrCreateKey reads a station's signing key (PKCS#8 PEM: Ed25519, ECDSA or
// RSA) and reports whether it had to be made: a missing file becomes a new
// Ed25519 key, 0600 and durable before it is first used. A key file that
// others can read is refused.
func LoadOrCreateKey(path string) (key crypto.Signer, created bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = createKey(path)
		if errors.Is(err, fs.ErrExist) { // somebody else made it meanwhile
			key, err = loadKey(path)
			return key, false, err
		}
		return key, err == nil, err
	}
	if err != nil {
		return nil, false, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, false, pipeline.WithHint(fmt.Errorf("signing key %s can be read by others (mode %#o)", path, info.Mode().Perm()),
			"chmod 600 %s, and consider whether the key is still secret", path)
	}
	key, err = loadKey(path)
	return key, false, err
}

func loadKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, pipeline.WithHint(fmt.Errorf("%s is not a PKCS#8 private key in PEM", path),
			"convert it: openssl pkcs8 -topk8 -nocrypt")
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s cannot be parsed", path)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing key %s cannot sign", path)
	}
	return signer, checkSigningKey(signer.Public())
}

func createKey(path string) (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(data)
	// Written beside and linked into place: the name never shows half a key,
	// and of two processes only one makes the key.
	temp, err := os.CreateTemp(filepath.Dir(path), ".signing-key-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	if _, err := temp.Write(data); err != nil {
		return nil, err
	}
	if err := temp.Sync(); err != nil {
		return nil, err
	}
	if err := os.Link(temp.Name(), path); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return key, dir.Sync()
}

// checkSigningKey refuses keys that no evidence should rest on.
func checkSigningKey(pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case ed25519.PublicKey, *ecdsa.PublicKey:
		return nil
	case *rsa.PublicKey:
		if pub.N.BitLen() >= 2048 {
			return nil
		}
		return fmt.Errorf("an RSA key of %d bits is too short to sign evidence", pub.N.BitLen())
	}
	return fmt.Errorf("keys of type %T cannot sign evidence", pub)
}

// PublicPEM returns a public key as SPKI PEM, which openssl reads.
func PublicPEM(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// KeyID names a public key: the SHA-256 of its SPKI, hexadecimal.
func KeyID(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// PublicKey is a key that somebody trusts, from outside of a bundle.
type PublicKey struct {
	Name string // of a verifier key: the log that it is for; empty if any
	Key  crypto.PublicKey
}

// ParsePublicKey reads an SPKI in PEM or a verifier key of C2SP signed notes.
func ParsePublicKey(data []byte) (PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		name, pub, err := parseVKey(string(data))
		if err != nil {
			return PublicKey{}, pipeline.WithHint(err, "give a public key as PEM, or the line that `keymill audit key` prints")
		}
		return PublicKey{name, pub}, nil
	}
	if block.Type != "PUBLIC KEY" {
		return PublicKey{}, pipeline.WithHint(fmt.Errorf("a PEM block %q is not a public key", block.Type),
			"give the public half: openssl pkey -pubout")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return PublicKey{Key: pub}, checkSigningKey(pub)
}
