package hsm

import (
	"encoding/json"
	"fmt"
)

// Provider says how the device's OpenSSL reaches its token.
type Provider string

// The ways.
const (
	// Engine is OpenSSL 1.1's and still OpenSSL 3's way: libp11's engine
	// (Debian: libengine-pkcs11-openssl), which mender-client 3 and 4 name.
	Engine Provider = "engine"
	// OpenSSL3 is a provider (pkcs11-provider, tpm2-openssl) that openssl.cnf
	// loads; mender.conf names no engine then.
	OpenSSL3 Provider = "provider"
)

// MenderSecurity returns the fragment of mender.conf that makes a client take
// its key from a token: {"Security": {"AuthPrivateKey": uri, "SSLEngine": ..}}.
// The client merges it with its other settings. uri must name one private key;
// a PIN in it is the device's, and readable to whoever holds the device.
func MenderSecurity(uri string, via Provider) ([]byte, error) {
	parsed, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if parsed.Object == "" && len(parsed.ID) == 0 {
		return nil, fmt.Errorf("the URI %s names no key: it needs object or id", parsed)
	}
	type security struct {
		AuthPrivateKey string `json:"AuthPrivateKey"`
		SSLEngine      string `json:"SSLEngine,omitempty"`
	}
	s := security{AuthPrivateKey: uri}
	switch via {
	case Engine:
		s.SSLEngine = "pkcs11"
	case OpenSSL3:
	default:
		return nil, fmt.Errorf("unknown way to a token %q: choose engine or provider", via)
	}
	return json.Marshal(map[string]security{"Security": s})
}

// ProviderConf returns an openssl.cnf for OpenSSL 3 that loads pkcs11-provider
// with the device's PKCS#11 module (a path on the device).
func ProviderConf(modulePath string) string {
	return `# Written by keymill: lets OpenSSL 3 use the key in the device's token.
openssl_conf = openssl_init

[openssl_init]
providers = provider_sect

[provider_sect]
default = default_sect
pkcs11 = pkcs11_sect

[default_sect]
activate = 1

[pkcs11_sect]
module = pkcs11.so
pkcs11-module-path = ` + modulePath + `
activate = 1
`
}
