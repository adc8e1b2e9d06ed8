//go:build cgo

package hsm

import (
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// conformance is what one kind of token must do: how many keys are made of each
// mode and algorithm, or what the refusal's hint names.
type conformance struct {
	token  func(testing.TB) trialToken
	works  map[Mode]map[Algorithm]int
	refuse map[Mode]map[Algorithm]string
	// mechanism is how keys leave the token.
	mechanism string
}

func softwareToken(testing.TB) trialToken { return trialToken{} }

var tokens = map[string]conformance{
	"software": {
		token: softwareToken,
		works: map[Mode]map[Algorithm]int{ModeSoftware: {Ed25519: 20, ECDSAP256: 20, ECDSAP384: 10, RSA2048: 1}},
		refuse: map[Mode]map[Algorithm]string{
			ModeHSM: {ECDSAP256: "module-path"}, ModeEntropy: {Ed25519: "module-path"}, ModeToken: {ECDSAP256: "module-path"},
		},
	},
	"softhsm": {
		token:     newSoftHSM,
		mechanism: "CKM_AES_KEY_WRAP_PAD (RFC 5649)",
		works: map[Mode]map[Algorithm]int{
			ModeHSM:     {ECDSAP256: 200, ECDSAP384: 50, RSA2048: 2, RSA3072: 1},
			ModeEntropy: {Ed25519: 300, ECDSAP256: 300, ECDSAP384: 50},
			ModeToken:   {ECDSAP256: 4, RSA2048: 1, Ed25519: 2},
		},
		refuse: map[Mode]map[Algorithm]string{
			ModeHSM:     {Ed25519: "ecdsa-p256, or --keys hsm-entropy"},
			ModeEntropy: {RSA3072: "ed25519 or ecdsa-p256"},
		},
	},
	"nss": {
		token:     newNSS,
		mechanism: "CKM_AES_KEY_WRAP_KWP (RFC 5649)",
		works: map[Mode]map[Algorithm]int{
			ModeHSM:     {ECDSAP256: 100, ECDSAP384: 20, RSA2048: 2},
			ModeEntropy: {Ed25519: 100, ECDSAP256: 100},
			ModeToken:   {ECDSAP256: 3, RSA2048: 1},
		},
		refuse: map[Mode]map[Algorithm]string{
			ModeHSM: {Ed25519: "hsm-entropy"}, ModeEntropy: {RSA2048: "--keys hsm"}, ModeToken: {Ed25519: "hsm test"},
		},
	},
	"tpm": {
		token: newTPM,
		works: map[Mode]map[Algorithm]int{
			ModeEntropy: {Ed25519: 50, ECDSAP256: 50},
			ModeToken:   {ECDSAP256: 2, RSA2048: 1},
		},
		refuse: map[Mode]map[Algorithm]string{
			ModeHSM:   {ECDSAP256: "--keys token", RSA2048: "--keys token", Ed25519: "hsm-entropy"},
			ModeToken: {Ed25519: "hsm test"},
		},
	},
	"opencryptoki": {
		token:     newOpenCryptoki,
		mechanism: "CKM_AES_CBC_PAD",
		works: map[Mode]map[Algorithm]int{
			ModeHSM:     {RSA2048: 3, RSA3072: 1},
			ModeEntropy: {Ed25519: 100, ECDSAP256: 100},
			ModeToken:   {RSA2048: 2},
		},
		refuse: map[Mode]map[Algorithm]string{ModeHSM: {Ed25519: "hsm-entropy"}},
	},
}

func TestConformance(t *testing.T) {
	for name, want := range tokens {
		t.Run(name, func(t *testing.T) {
			token := want.token(t)
			for mode, algorithms := range want.works {
				for alg, count := range algorithms {
					t.Run(fmt.Sprintf("%s/%s", mode, alg), func(t *testing.T) { conforms(t, token, want, mode, alg, count) })
				}
			}
			for mode, algorithms := range want.refuse {
				for alg, hint := range algorithms {
					t.Run(fmt.Sprintf("%s/%s refused", mode, alg), func(t *testing.T) {
						_, err := Open(t.Context(), mode, alg, token.config(t))
						wantRefused(t, err, hint)
					})
				}
			}
			if token.uri != "" && want.works[ModeToken] == nil {
				if n := token.objects(t); n != 0 {
					t.Errorf("%d objects are left in the token", n)
				}
			}
		})
	}
}

func conforms(t *testing.T, token trialToken, want conformance, mode Mode, alg Algorithm, count int) {
	before := 0
	if token.uri != "" {
		before = token.objects(t)
	}
	source, err := Open(t.Context(), mode, alg, token.config(t))
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, Hint(err))
	}
	generateMany(t, token, source, mode, alg, count)
	if origin := source.Origin(); origin.Mode != mode || origin.Algorithm != alg {
		t.Errorf("origin %+v", origin)
	} else if mode != ModeSoftware && (origin.TokenLabel == "" || origin.ModuleVersion == "" || origin.Mechanism == "") {
		t.Errorf("origin %+v", origin)
	} else if mode == ModeHSM && origin.Mechanism != want.mechanism {
		t.Errorf("keys leave by %s, want %s", origin.Mechanism, want.mechanism)
	}
	if err := source.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if token.uri == "" {
		return
	}
	kept := 0
	if mode == ModeToken {
		kept = 2 * count
	}
	if n := token.objects(t) - before; n != kept {
		t.Errorf("%d objects are left in the token, want %d", n, kept)
	}
}

// generateMany makes keys with 8 workers (one where the token has to be helped
// along), and checks every one.
func generateMany(t *testing.T, token trialToken, source Source, mode Mode, alg Algorithm, count int) {
	t.Helper()
	type made struct{ private, public []byte }
	var (
		jobs = make(chan int)
		mu   sync.Mutex
		keys []made
		work sync.WaitGroup
	)
	workers := 8
	if token.flush != nil {
		workers = 1
	}
	for range workers {
		work.Go(func() {
			for i := range jobs {
				token.flushed()
				private, public, err := source.Generate(t.Context(), fmt.Sprintf("device-%d", i))
				if err != nil {
					t.Errorf("key %d: %v", i, err)
					continue
				}
				mu.Lock()
				keys = append(keys, made{private, public})
				mu.Unlock()
			}
		})
	}
	for i := range count {
		jobs <- i
	}
	close(jobs)
	work.Wait()
	seen := map[string]bool{}
	for i, key := range keys {
		if seen[string(key.public)] {
			t.Fatal("the same key twice")
		}
		seen[string(key.public)] = true
		if mode == ModeToken {
			checkKept(t, source, alg, key.private, key.public)
			continue
		}
		checkPair(t, alg, key.private, key.public)
		if i < 2 {
			opensslCheck(t, key.private)
		}
	}
}

func checkKept(t *testing.T, source Source, alg Algorithm, private, public []byte) {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil || private != nil || algorithmOf(parsed) != alg {
		t.Errorf("%s: private %d bytes, public %T, %v", alg, len(private), parsed, err)
	}
	uri, err := source.(Locator).URI(public)
	if err != nil || !strings.Contains(uri, "object=device-") || !strings.Contains(uri, "id=%") {
		t.Errorf("%q, %v", uri, err)
	}
	if origin := source.Origin(); !origin.AlwaysSensitive || !origin.NeverExtractable {
		t.Errorf("the token doesn't call the key never extractable: %+v", origin)
	}
}
