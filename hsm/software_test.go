package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// checkPair fails the test unless private is exactly one PKCS#8 PEM block of
// alg, public is its SPKI, and the one verifies what the other signs.
func checkPair(t testing.TB, alg Algorithm, private, public []byte) crypto.Signer {
	t.Helper()
	block, rest := pem.Decode(private)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 || len(block.Headers) > 0 {
		t.Fatalf("not one PRIVATE KEY block: %d bytes", len(private))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(crypto.Signer)
	if der, err := x509.MarshalPKCS8PrivateKey(key); err != nil || !bytes.Equal(der, block.Bytes) {
		t.Errorf("PKCS#8 is not what crypto/x509 writes (%v)", err)
	}
	if spki, err := x509.MarshalPKIXPublicKey(key.Public()); err != nil || !bytes.Equal(spki, public) {
		t.Errorf("SPKI is not that of the private key (%v)", err)
	}
	if got := algorithmOf(key.Public()); got != alg {
		t.Errorf("made a key of kind %s, want %s", got, alg)
	}
	checkSigns(t, key, key.Public())
	return key
}

func checkSigns(t testing.TB, key crypto.Signer, public crypto.PublicKey) {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	valid := false
	switch public := public.(type) {
	case ed25519.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.Hash(0))
		valid = err == nil && ed25519.Verify(public, digest[:], sig)
	case *ecdsa.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		valid = err == nil && ecdsa.VerifyASN1(public, digest[:], sig)
	case *rsa.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		valid = err == nil && rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sig) == nil
	}
	if !valid {
		t.Error("the public key doesn't verify what the private key signs")
	}
}

func algorithmOf(public crypto.PublicKey) Algorithm {
	switch public := public.(type) {
	case ed25519.PublicKey:
		return Ed25519
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P384() {
			return ECDSAP384
		}
		return ECDSAP256
	case *rsa.PublicKey:
		return map[int]Algorithm{2048: RSA2048, 3072: RSA3072, 4096: RSA4096}[public.N.BitLen()]
	}
	return ""
}

func TestSoftwareKeys(t *testing.T) {
	rounds := map[Algorithm]int{Ed25519: 300, ECDSAP256: 300, ECDSAP384: 100, RSA2048: 3, RSA3072: 1, RSA4096: 1}
	for _, alg := range Algorithms() {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			source, err := Software(alg)
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			seen := map[string]bool{}
			for range rounds[alg] {
				private, public, err := source.Generate(t.Context(), "label")
				if err != nil {
					t.Fatal(err)
				}
				checkPair(t, alg, private, public)
				if seen[string(public)] {
					t.Fatal("the same key twice")
				}
				seen[string(public)] = true
			}
			if got := source.Origin(); got.Mode != ModeSoftware || got.Algorithm != alg {
				t.Errorf("origin %+v", got)
			}
		})
	}
}

func TestPEMEqualsTheStandardLibrarys(t *testing.T) {
	for _, n := range []int{1, 47, 48, 49, 96, 138, 1217, 1218} {
		der := bytes.Repeat([]byte{0xa5}, n)
		want := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		got := privatePEM(bytes.Clone(der))
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes:\n%s\nwant\n%s", n, got, want)
		}
		if back, ok := pemDER(got); !ok || !bytes.Equal(back, der) {
			t.Errorf("%d bytes don't come back", n)
		}
	}
}

func TestOpenSSLAcceptsSoftwareKeys(t *testing.T) {
	needTool(t, "openssl", "openssl")
	for _, alg := range []Algorithm{Ed25519, ECDSAP256, ECDSAP384, RSA2048} {
		source, err := Software(alg)
		if err != nil {
			t.Fatal(err)
		}
		private, _, err := source.Generate(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		opensslCheck(t, private)
	}
}

// opensslCheck lets openssl judge a private key.
func opensslCheck(t testing.TB, private []byte) {
	t.Helper()
	args := []string{"pkey", "-check", "-noout"}
	if bytes.Contains(private, []byte("MC4CAQAwBQYDK2Vw")) {
		args = []string{"pkey", "-noout"} // OpenSSL 3.0 has no -check for Ed25519
	}
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(private)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("openssl pkey -check: %v\n%s", err, out)
	}
}

func TestSoftwareStopsWithTheContext(t *testing.T) {
	source, _ := Software(Ed25519)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := source.Generate(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestChoicesAreNamed(t *testing.T) {
	for _, alg := range Algorithms() {
		if got, err := ParseAlgorithm(string(alg)); got != alg || err != nil {
			t.Errorf("%s: %v, %v", alg, got, err)
		}
	}
	if _, err := ParseAlgorithm("rsa"); err == nil || !strings.Contains(err.Error(), "rsa-3072") {
		t.Errorf("got %v", err)
	}
	if _, err := Software("dsa"); err == nil {
		t.Error("dsa accepted")
	}
	if _, err := ParseMode("HSM"); err == nil || !strings.Contains(err.Error(), "hsm-entropy") {
		t.Errorf("got %v", err)
	}
}

func TestWipe(t *testing.T) {
	secret := []byte("secret")
	Wipe(secret)
	if !bytes.Equal(secret, make([]byte, 6)) {
		t.Errorf("left %q", secret)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	words := key.D.Bits() //nolint:staticcheck // the test looks at the memory that is wiped
	wipeEC(key)
	for _, w := range words {
		if w != 0 {
			t.Fatal("the scalar is still there")
		}
	}
}

// BenchmarkSoftware measures Generate on one core.
func BenchmarkSoftware(b *testing.B) {
	for _, alg := range Algorithms() {
		b.Run(string(alg), func(b *testing.B) {
			source, err := Software(alg)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				private, _, err := source.Generate(b.Context(), "")
				if err != nil {
					b.Fatal(err)
				}
				Wipe(private)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
