//go:build !cgo

package hsm

import "context"

// errNoCgo is what everything that needs a token returns in a build without cgo:
// PKCS#11 modules are shared C libraries.
func errNoCgo() error {
	return refused("build it with CGO_ENABLED=1 and a C compiler (Debian: gcc), or use --keys software",
		"this keymill was built without cgo, so that it can't load PKCS#11 modules")
}

func openToken(context.Context, Mode, Algorithm, Config) (Source, error) { return nil, errNoCgo() }
