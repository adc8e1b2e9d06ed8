package sources

import (
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// holdsKey reports what kind of key material a value is, "" for none. Keys have
// no place in a manifest: private ones would go to the server, the ledger and
// the reports, and an identity with a public one could never get a new key.
func holdsKey(v string) string {
	if len(v) < 20 {
		return ""
	}
	switch {
	case strings.Contains(v, "-----BEGIN") || strings.Contains(v, "-----END"):
		return "a key or certificate (PEM)"
	case hasAnyPrefix(v, "ssh-rsa", "ssh-dss", "ssh-ed25519", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-",
		"AAAAB3NzaC1", "AAAAC3NzaC1", "AAAAE2VjZHNh", "AAAAI2VjZHNh", "AAAAInNr", "AAAAGnNr"):
		return "an SSH key"
	case hasAnyPrefix(v, "AGE-SECRET-KEY-", "PuTTY-User-Key-File", "b3BlbnNzaC1rZXk", "LS0tLS1CRUdJTi"):
		return "a key"
	case v[0] == '{' && strings.Contains(v, `"kty"`):
		return "a key (JWK)"
	}
	if len(v) >= minDER && holdsDER(v) {
		return "a key or certificate (DER)"
	}
	return ""
}

// minDER is the length of the shortest key in DER as base64: the PKCS#8 of a
// short curve's key; an Ed25519 SPKI has 60 characters.
const minDER = 56

// holdsDER reports whether v is base64 or hexadecimal of exactly one DER
// SEQUENCE, which is what SPKI, PKCS#8, PKCS#1, SEC1 and X.509 are.
func holdsDER(v string) bool {
	compact := strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n', ':':
			return -1
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return r
	}, v)
	// A SEQUENCE begins with 0x30: "M" in base64, "30" in hexadecimal.
	var der []byte
	var err error
	switch {
	case strings.HasPrefix(compact, "M"):
		der, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(compact, "="))
	case strings.HasPrefix(compact, "30"):
		der, err = hex.DecodeString(compact)
	default:
		return false
	}
	if err != nil {
		return false
	}
	defer clear(der)
	var seq asn1.RawValue
	rest, err := asn1.Unmarshal(der, &seq)
	return err == nil && len(rest) == 0 && seq.Tag == asn1.TagSequence
}

func hasAnyPrefix(v string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(v, p) {
			return true
		}
	}
	return false
}
