package pipeline

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MatchKey checks that the private key in a PEM file (PKCS#8, as mender-client
// reads it) belongs to the public key given as SPKI in DER. It is the judge of
// a released image, and knows nothing of how the key was made.
func MatchKey(private, spki []byte) error {
	public, err := PublicOf(private)
	if err != nil {
		return fmt.Errorf("the image's key: %w", err)
	}
	if !bytes.Equal(public, spki) {
		return fmt.Errorf("the image's key (sha256 %s) is not the recorded one (sha256 %s)",
			Fingerprint(public), Fingerprint(spki))
	}
	return nil
}

// ownKey is the fingerprint of a key pair that this machine made and its worker
// staged just now. The same bytes read back from the image are the same key, so
// that the public half needn't be derived again: what made the pair derived it from
// these bytes. What comes from anywhere else (a resumed device, a token, a file) is
// judged by MatchKey. It holds hashes, no key.
type ownKey struct {
	private, public [sha256.Size]byte
	made            bool
}

func (o *ownKey) make(private, public []byte) {
	*o = ownKey{private: sha256.Sum256(private), public: sha256.Sum256(public), made: len(private) > 0}
}

// is says whether private and spki are the pair, byte by byte.
func (o *ownKey) is(private, spki []byte) bool {
	return o.made && sha256.Sum256(private) == o.private && sha256.Sum256(spki) == o.public
}

// PublicOf returns the SPKI (DER) of the private key in a PKCS#8 PEM file.
func PublicOf(private []byte) ([]byte, error) {
	block, rest := pem.Decode(private)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PKCS#8 PEM file")
	}
	defer clear(block.Bytes)
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("there is more than one key in the file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a readable PKCS#8 key") // the cause could quote key bytes
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a signing key")
	}
	return x509.MarshalPKIXPublicKey(signer.Public())
}
