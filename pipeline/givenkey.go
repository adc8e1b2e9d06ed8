package pipeline

import (
	"bytes"
	"context"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // only to say what a key is
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Keys that exist before keymill has anything to do with them.
const (
	// KeysInManifest is the Lot.Keys of lots whose devices made their keys
	// themselves: the manifest has the public halves, and no image is made.
	KeysInManifest = "manifest"
	// KeysInFiles is the Lot.Keys of lots whose private keys lie in files.
	KeysInFiles = "files"
	// AttrPublicKey is the attribute that holds a device's public key: its SPKI as
	// base64, whatever the manifest had.
	AttrPublicKey = "public_key"
)

// GivenKeys are sources of keys that exist: they are told the device, not a
// label. For may be called as Keys.Generate; its key must not be one that the
// lot has had already. algorithm says what kind the key is.
type GivenKeys interface {
	For(ctx context.Context, dev *Device) (private, public []byte, algorithm string, err error)
}

// KeyFlaw is why a key that was given can't be used. Neither text quotes the key.
type KeyFlaw struct {
	What   string
	Remedy string
}

func (f *KeyFlaw) Error() string { return f.What }

// Hint says what to do about it.
func (f *KeyFlaw) Hint() string { return f.Remedy }

func flawed(remedy, format string, args ...any) error {
	return &KeyFlaw{What: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Bounds of RSA keys in bits. The server takes shorter ones, and devices can't
// authenticate with some of them.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

const (
	wantPublic  = "Give the public key as a BEGIN PUBLIC KEY PEM, or its SPKI in base64 or hexadecimal: openssl pkey -in KEY -pubout."
	wantPrivate = "Give one private key as PEM: PKCS#8, PKCS#1 or SEC1, without a password."
	leakRemedy  = "A private key has no place in a manifest: take it out, destroy the copies, and have the device make a new one."
)

// ParsePublicKey reads a public key: one PKIX PEM (RFC 7468), or its SPKI in
// base64 or hexadecimal. It returns the SPKI in DER, encoded as the server does,
// and the name of its algorithm. Errors are a *KeyFlaw.
func ParsePublicKey(text string) (spki []byte, algorithm string, err error) {
	der, err := publicDER(strings.TrimSpace(text))
	if err != nil {
		return nil, "", err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, "", notSPKI(der)
	}
	if algorithm, err = checkPublic(key); err != nil {
		return nil, "", err
	}
	if spki, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, "", flawed(wantPublic, "the public key can't be encoded")
	}
	return spki, algorithm, nil
}

// publicDER finds the bytes of a public key in what somebody has put there.
func publicDER(text string) ([]byte, error) {
	switch {
	case text == "":
		return nil, flawed(wantPublic, "there is no public key")
	case strings.Contains(text, "-----BEGIN"):
		return pemDER(text)
	case strings.Contains(text, "-----"):
		return nil, flawed(wantPublic, "the PEM is cut: its BEGIN line is missing")
	case strings.HasPrefix(text, "ssh-"), strings.HasPrefix(text, "ecdsa-sha2-"), strings.HasPrefix(text, "AAAA"):
		return nil, flawed("Convert it: ssh-keygen -e -m PKCS8 -f KEY.pub.", "the value is an SSH public key")
	case strings.HasPrefix(text, "{"):
		return nil, flawed(wantPublic, "the value is JSON (a JWK?)")
	}
	compact := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n", r) {
			return -1
		}
		return r
	}, text)
	if der, err := hex.DecodeString(strings.ReplaceAll(compact, ":", "")); err == nil {
		switch len(der) {
		case 16, 20, 32, 48, 64:
			return nil, flawed(wantPublic, "the value is %d bytes in hexadecimal: a fingerprint, or a raw key without its SPKI", len(der))
		}
		return der, nil
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		der, err := encoding.DecodeString(compact)
		if err != nil {
			continue
		}
		if len(der) == ed25519.PublicKeySize {
			return nil, flawed(wantPublic, "the value is 32 bytes in base64: a fingerprint, or a raw key without its SPKI")
		}
		return der, nil
	}
	return nil, flawed(wantPublic, "the value is neither PEM nor base64 nor hexadecimal")
}

// pemDER reads the one block of a PEM that must hold a public key.
func pemDER(text string) ([]byte, error) {
	if strings.Contains(text, "PRIVATE KEY") {
		return nil, flawed(leakRemedy, "the value is a private key")
	}
	block, rest := pem.Decode([]byte(strings.TrimSpace(text) + "\n"))
	switch {
	case block == nil && strings.Contains(text, "-----END"):
		return nil, flawed(wantPublic, "the PEM can't be read: its text is damaged, or not in lines of its own")
	case block == nil:
		return nil, flawed(wantPublic, "the PEM is cut: its END line is missing")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, flawed("Give one key for each device.", "there is more than one PEM block")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return block.Bytes, nil
	case "RSA PUBLIC KEY":
		return nil, flawed("Convert it: openssl rsa -RSAPublicKey_in -in KEY -pubout.", "the value is a PKCS#1 public key, which the server refuses")
	case "CERTIFICATE":
		return nil, flawed("Take the key out of it: openssl x509 -in CERT -noout -pubkey.", "the value is a certificate")
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		return nil, flawed("Take the key out of it: openssl req -in CSR -noout -pubkey.", "the value is a certificate request")
	}
	return nil, flawed(wantPublic, "the value is a PEM of another kind (%s)", printable(block.Type))
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 40)])
}

// notSPKI says what bytes are that are no SPKI.
func notSPKI(der []byte) error {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return flawed(leakRemedy, "the value is a private key")
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return flawed(leakRemedy, "the value is a private key")
	}
	if _, err := x509.ParseECPrivateKey(der); err == nil {
		return flawed(leakRemedy, "the value is a private key")
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		return flawed("Take the key out of it: openssl x509 -in CERT -noout -pubkey.", "the value is a certificate")
	}
	if _, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return flawed("Convert it: openssl rsa -RSAPublicKey_in -in KEY -pubout.", "the value is a PKCS#1 public key, which the server refuses")
	}
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	switch {
	case err == nil && len(rest) > 0:
		return flawed(wantPublic, "something follows the key")
	case err != nil && len(der) > 1 && der[0] == 0x30:
		return flawed(wantPublic, "the key is cut or damaged")
	case len(der) > 0 && (der[0] == 4 || der[0] == 2 || der[0] == 3) && (len(der) == 65 || len(der) == 97 || len(der) == 33 || len(der) == 49):
		return flawed(wantPublic, "the value is a raw point of a curve without its SPKI")
	case err != nil:
		return flawed(wantPublic, "the value is no public key")
	}
	return flawed(wantPublic, "the value is no public key that the server takes: RSA, ECDSA or Ed25519, no RSA-PSS, no compressed points")
}

// checkPublic names a key's algorithm, and refuses keys that no device could use.
func checkPublic(key any) (string, error) {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return "ed25519", nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return "ecdsa-p256", nil
		case elliptic.P384():
			return "ecdsa-p384", nil
		case elliptic.P521():
			return "ecdsa-p521", nil
		}
		return "", flawed("Use P-256 or P-384.", "the key is on the curve %s, which Mender's client can't use", key.Curve.Params().Name)
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		switch {
		case bits < minRSABits:
			return "", flawed("Use at least RSA 2048.", "the key is RSA with %d bits, which is too short", bits)
		case bits > maxRSABits:
			return "", flawed("Use RSA 2048, 3072 or 4096.", "the key is RSA with %d bits, which is too long", bits)
		case key.E < 3 || key.E%2 == 0:
			return "", flawed("Make another key.", "the RSA key's exponent is %d", key.E)
		}
		return fmt.Sprintf("rsa-%d", bits), nil
	case *ecdh.PublicKey:
		return "", flawed("Use Ed25519, P-256 or RSA.", "the key is for key agreement (X25519), not for signatures")
	case *dsa.PublicKey:
		return "", flawed("Use Ed25519, P-256 or RSA.", "the key is DSA, which Mender's client can't use")
	}
	return "", flawed("Use Ed25519, P-256 or RSA.", "the key is of a kind that Mender's client can't use")
}

// ParsePrivateKey reads a private key file as openssl and Mender's key script
// leave it: one PEM of PKCS#8, PKCS#1 or SEC1, perhaps with EC PARAMETERS before
// it. It returns the key as PKCS#8 PEM, which the caller wipes, its public half
// and its algorithm. Errors are a *KeyFlaw.
func ParsePrivateKey(data []byte) (private, spki []byte, algorithm string, err error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	switch {
	case block == nil && len(data) > 0 && data[0] == 0x30:
		return nil, nil, "", flawed("Convert it: openssl pkey -inform DER -in KEY.", "the file is DER, not PEM")
	case block == nil:
		return nil, nil, "", flawed(wantPrivate, "the file holds no whole PEM")
	}
	defer clear(block.Bytes)
	if next, _ := pem.Decode(rest); next != nil {
		clear(next.Bytes)
		return nil, nil, "", flawed("Give one file for each device.", "the file holds more than one PEM block")
	}
	key, err := privateOf(block)
	if err != nil {
		return nil, nil, "", err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, "", flawed("Use Ed25519, P-256 or RSA.", "the key is not one for signatures")
	}
	if algorithm, err = checkPublic(signer.Public()); err != nil {
		return nil, nil, "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, "", flawed(wantPrivate, "the private key can't be encoded")
	}
	defer clear(der)
	if spki, err = x509.MarshalPKIXPublicKey(signer.Public()); err != nil {
		return nil, nil, "", flawed(wantPrivate, "the public half can't be encoded")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), spki, algorithm, nil
}

// privateOf parses a block by its kind. Causes are not passed on: they could
// quote the key.
func privateOf(block *pem.Block) (any, error) {
	var key any
	err := errors.New("unknown")
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, flawed("Take the password off: openssl pkey -in KEY. The client can't read encrypted keys.", "the key is encrypted")
	case block.Type == "OPENSSH PRIVATE KEY":
		return nil, flawed("Convert a copy: ssh-keygen -p -m PKCS8 -f KEY.", "the key is in OpenSSH's own form")
	case strings.Contains(block.Type, "PUBLIC KEY"), strings.Contains(block.Type, "CERTIFICATE"):
		return nil, flawed(wantPrivate, "the file holds a %s, not a private key", strings.ToLower(printable(block.Type)))
	case block.Type == "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type == "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, flawed(wantPrivate, "the private key can't be read")
	}
	return key, nil
}
