//go:build !cgo

package hsm

import "testing"

// Without cgo everything that needs a token says what is missing, and nothing
// falls to software.
func TestWithoutCgo(t *testing.T) {
	cfg := Config{URI: "pkcs11:token=a?module-path=/usr/lib/m.so"}
	calls := map[string]func() error{
		"list":      func() error { _, err := List(t.Context(), cfg); return err },
		"inventory": func() error { _, err := Inventory(t.Context(), cfg); return err },
		"test":      func() error { _, err := Test(t.Context(), cfg); return err },
		"bench":     func() error { _, err := Bench(t.Context(), cfg, BenchOptions{}); return err },
		"gc":        func() error { _, err := GC(t.Context(), cfg, GCOptions{}); return err },
		"kept":      func() error { _, err := OpenKept(t.Context(), cfg); return err },
		"signer":    func() error { _, err := OpenSigner(t.Context(), cfg); return err },
	}
	for _, mode := range Modes()[1:] {
		calls[string(mode)] = func() error { _, err := Open(t.Context(), mode, ECDSAP256, cfg); return err }
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) { wantRefused(t, call(), "CGO_ENABLED=1") })
	}
	source, err := Open(t.Context(), ModeSoftware, ECDSAP256, Config{})
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := source.Generate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	checkPair(t, ECDSAP256, private, public)
}
