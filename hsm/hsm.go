// Package hsm is where device keys come from: Go's standard library, or a
// PKCS#11 token. It knows no devices and no lots.
//
// What a token protects here, and what it doesn't. With [ModeHSM] the key is
// generated inside the token and leaves it wrapped, so the quality of the key
// and the record of its making are the token's. But the device needs the key in
// its image: the plain key passes through this process's memory for a moment,
// and lies in the image afterwards. A station that is compromised while it runs
// sees it. Only with [ModeToken] does a key never leave hardware: it is made in
// the token that ships with the device.
package hsm

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Algorithm is a kind of device key.
type Algorithm string

// The algorithms that a Mender server and client both accept.
const (
	Ed25519   Algorithm = "ed25519"
	ECDSAP256 Algorithm = "ecdsa-p256"
	ECDSAP384 Algorithm = "ecdsa-p384"
	RSA2048   Algorithm = "rsa-2048"
	RSA3072   Algorithm = "rsa-3072"
	RSA4096   Algorithm = "rsa-4096"
)

// Algorithms returns all algorithms in the order in which help shows them.
func Algorithms() []Algorithm {
	return []Algorithm{Ed25519, ECDSAP256, ECDSAP384, RSA2048, RSA3072, RSA4096}
}

// ParseAlgorithm returns the algorithm of that name. The error names the choices.
func ParseAlgorithm(s string) (Algorithm, error) {
	return parseChoice(s, "key algorithm", Algorithms())
}

// bits returns the modulus length of an RSA algorithm, 0 for the others.
func (a Algorithm) bits() int {
	switch a {
	case RSA2048:
		return 2048
	case RSA3072:
		return 3072
	case RSA4096:
		return 4096
	}
	return 0
}

// Mode says where device keys are made.
type Mode string

// The modes.
const (
	// ModeSoftware makes keys with Go's standard library.
	ModeSoftware Mode = "software"
	// ModeHSM makes keys in the token, takes them out wrapped, and destroys
	// them in the token.
	ModeHSM Mode = "hsm"
	// ModeEntropy makes keys in software from the token's random numbers.
	ModeEntropy Mode = "hsm-entropy"
	// ModeToken makes keys that stay in the token, which ships with the device.
	ModeToken Mode = "token"
)

// Modes returns all modes in the order in which help shows them.
func Modes() []Mode { return []Mode{ModeSoftware, ModeHSM, ModeEntropy, ModeToken} }

// ParseMode returns the mode of that name. The error names the choices.
func ParseMode(s string) (Mode, error) { return parseChoice(s, "source of keys", Modes()) }

func parseChoice[T ~string](s, what string, choices []T) (T, error) {
	if slices.Contains(choices, T(s)) {
		return T(s), nil
	}
	names := make([]string, len(choices))
	for i, c := range choices {
		names[i] = string(c)
	}
	return "", fmt.Errorf("unknown %s %q: choose one of %s", what, s, strings.Join(names, ", "))
}

// Source makes device keys.
//
// Generate may be called by many goroutines at once; a source with few sessions
// makes them wait. Three kinds of errors come back: a *GoneError when the source
// itself is gone and no other device will fare better, the context's error, and
// anything else for a failure of this one key. What is worth retrying was retried.
// Close is called once, after the last Generate; it destroys the transport keys.
type Source interface {
	// Generate returns the private key as PKCS#8 PEM ("PRIVATE KEY", which is
	// what mender-client reads), and the public key as SPKI DER. The caller
	// wipes the private key with Wipe. It is nil for keys that stay in a token.
	// label names the device for sources that name their objects.
	Generate(ctx context.Context, label string) (private, public []byte, err error)
	// AtOnce is how many calls of Generate keep the token's sessions busy: each
	// works, and has a caller that waits for it. It is 0 for keys in software,
	// which this machine's cores limit.
	AtOnce() int
	// Load says how well the sessions have been used so far.
	Load() Load
	// Origin says where the keys come from, for the audit.
	Origin() Origin
	Close() error
}

// Origin says where keys come from. It holds no secrets. Fields that don't
// apply are empty.
type Origin struct {
	Mode          Mode      `json:"mode"`
	Algorithm     Algorithm `json:"algorithm"`
	Module        string    `json:"module,omitempty"`         // file name, manufacturer and description
	ModuleVersion string    `json:"module_version,omitempty"` // "2.6", as the module reports it
	ModulePath    string    `json:"module_path,omitempty"`
	ModuleSHA256  string    `json:"module_sha256,omitempty"` // of the module's file, hexadecimal
	TokenLabel    string    `json:"token_label,omitempty"`
	TokenSerial   string    `json:"token_serial,omitempty"`
	TokenModel    string    `json:"token_model,omitempty"`
	Firmware      string    `json:"firmware,omitempty"`
	Mechanism     string    `json:"mechanism,omitempty"` // how keys leave the token, as it was found to work
	Transport     string    `json:"transport,omitempty"` // how the wrapping key came to be shared with this host
	// Of the device keys, as the token reports them for a key made at start-up.
	AlwaysSensitive  bool `json:"always_sensitive,omitempty"`
	NeverExtractable bool `json:"never_extractable,omitempty"`
	// Warnings are what an auditor should know, in sentences.
	Warnings []string `json:"warnings,omitempty"`
	// Others are the further tokens that the keys are spread over.
	Others []Origin `json:"others,omitempty"`
}

// Locator is what sources of ModeToken implement besides Source.
type Locator interface {
	// URI returns the PKCS#11 URI by which the device finds the private key
	// that Generate made with this public key (SPKI, DER). It has neither
	// module nor PIN. It is known until the source is closed.
	URI(public []byte) (string, error)
}
