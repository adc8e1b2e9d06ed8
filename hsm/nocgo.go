//go:build !cgo

package hsm

import (
	"context"
	"crypto"
	"io"
)

// errNoCgo is what everything that needs a token returns in a build without cgo:
// PKCS#11 modules are shared C libraries.
func errNoCgo() error {
	return refused("build it with CGO_ENABLED=1 and a C compiler (Debian: gcc), or use --keys software",
		"this keymill was built without cgo, so that it can't load PKCS#11 modules")
}

func openToken(context.Context, Mode, Algorithm, Config) (Source, error) { return nil, errNoCgo() }

// List needs cgo, which this build hasn't: it returns a *RefusedError.
func List(context.Context, Config) (*Listing, error) { return nil, errNoCgo() }

// Inventory needs cgo, which this build hasn't: it returns a *RefusedError.
func Inventory(context.Context, Config) (*Listing, error) { return nil, errNoCgo() }

// Test needs cgo, which this build hasn't: it returns a *RefusedError.
func Test(context.Context, Config, ...Algorithm) (*TestReport, error) { return nil, errNoCgo() }

// Bench needs cgo, which this build hasn't: it returns a *RefusedError.
func Bench(context.Context, Config, BenchOptions) (*BenchReport, error) { return nil, errNoCgo() }

// GC needs cgo, which this build hasn't: it returns a *RefusedError.
func GC(context.Context, Config, GCOptions) (*GCReport, error) { return nil, errNoCgo() }

// Kept is a token in which keys stay. There are none in a build without cgo.
type Kept struct{}

// OpenKept needs cgo, which this build hasn't: it returns a *RefusedError.
func OpenKept(context.Context, Config) (*Kept, error) { return nil, errNoCgo() }

// Destroy has nothing to destroy.
func (*Kept) Destroy(context.Context, []byte) (bool, error) { return false, errNoCgo() }

// Close does nothing.
func (*Kept) Close() error { return nil }

// Modules are loaded PKCS#11 modules. There are none in a build without cgo.
type Modules struct{}

// NewModules returns none.
func NewModules() *Modules { return &Modules{} }

// Close does nothing.
func (*Modules) Close() error { return nil }

// Signer is a key in a token. There are none in a build without cgo.
type Signer struct{}

// OpenSigner needs cgo, which this build hasn't: it returns a *RefusedError.
func OpenSigner(context.Context, Config) (*Signer, error) { return nil, errNoCgo() }

// Public implements crypto.Signer.
func (*Signer) Public() crypto.PublicKey { return nil }

// Sign implements crypto.Signer.
func (*Signer) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errNoCgo() }

// Custody has nothing to tell.
func (*Signer) Custody() Custody { return Custody{} }

// Close does nothing.
func (*Signer) Close() error { return nil }
