//go:build cgo

package hsm

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
)

// withKey leaves a key in the token and returns the URI that names it.
func (token trialToken) withKey(t testing.TB, alg Algorithm, label string) (uri string, public []byte) {
	t.Helper()
	source, err := Open(t.Context(), ModeToken, alg, token.config(t))
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, Hint(err))
	}
	defer source.Close()
	token.flushed()
	_, public, err = source.Generate(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	key, err := source.(Locator).URI(public)
	if err != nil {
		t.Fatal(err)
	}
	_, query, _ := strings.Cut(token.uri, "?")
	return key + "?" + query, public
}

func TestSigner(t *testing.T) {
	for _, test := range []struct {
		token string
		alg   Algorithm
	}{
		{"softhsm", ECDSAP256},
		{"softhsm", RSA2048},
		{"softhsm", Ed25519},
		{"nss", ECDSAP256},
		{"tpm", ECDSAP256},
		{"opencryptoki", RSA2048},
	} {
		t.Run(test.token+"/"+string(test.alg), func(t *testing.T) {
			token := tokens[test.token].token(t)
			uri, public := token.withKey(t, test.alg, "audit")
			token.flushed()
			signer, err := OpenSigner(t.Context(), Config{URI: uri})
			if err != nil {
				t.Fatalf("%v\nhint: %s", err, Hint(err))
			}
			if spki, err := x509.MarshalPKIXPublicKey(signer.Public()); err != nil || string(spki) != string(public) {
				t.Errorf("another public key (%v)", err)
			}
			if c := signer.Custody(); c.TokenSerial == "" || len(c.ModuleSHA256) != 64 || c.Extractable && test.token != "opencryptoki" ||
				!c.Local && test.token != "nss" { // NSS doesn't keep CKA_LOCAL of what lies in its database
				t.Errorf("custody %+v", c)
			}
			checkSigns(t, signer, signer.Public())
			checkSigns(t, signer, signer.Public())
			if err := signer.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSignerBesideASource(t *testing.T) {
	token := newSoftHSM(t)
	uri, _ := token.withKey(t, ECDSAP256, "audit")
	t.Run("signer first", func(t *testing.T) {
		signer, err := OpenSigner(t.Context(), Config{URI: uri})
		if err != nil {
			t.Fatal(err)
		}
		source := mustOpen(t, ModeHSM, ECDSAP256, token.config(t))
		checkSigns(t, signer, signer.Public())
		// Closing finalises the module, which nobody shares: the source has to get over it.
		if err := signer.Close(); err != nil {
			t.Error(err)
		}
		private, public, err := source.Generate(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		checkPair(t, ECDSAP256, private, public)
	})
	t.Run("source first", func(t *testing.T) {
		source, err := Open(t.Context(), ModeHSM, ECDSAP256, token.config(t))
		if err != nil {
			t.Fatal(err)
		}
		signer, err := OpenSigner(t.Context(), Config{URI: uri})
		if err != nil {
			t.Fatal(err)
		}
		defer signer.Close()
		checkSigns(t, signer, signer.Public())
		if err := source.Close(); err != nil {
			t.Error(err)
		}
		checkSigns(t, signer, signer.Public())
	})
	t.Run("the module is initialised again under the signer", func(t *testing.T) {
		shared := NewModules() // as a command has it
		defer shared.Close()
		signer, err := OpenSigner(t.Context(), Config{URI: uri, Modules: shared})
		if err != nil {
			t.Fatal(err)
		}
		defer signer.Close()
		cfg := token.config(t)
		cfg.Modules = shared
		source, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		mod := source.(*wrapped).pool.mod
		if err := mod.reinitialise(t.Context(), mod.generation.Load()); err != nil {
			t.Fatal(err)
		}
		checkSigns(t, signer, signer.Public())
	})
}

func TestSignerRefuses(t *testing.T) {
	token := newSoftHSM(t)
	_, err := OpenSigner(t.Context(), Config{URI: token.uri})
	wantRefused(t, err, "object=LABEL")
	named := strings.Replace(token.uri, "?", ";object=audit?", 1)
	_, err = OpenSigner(t.Context(), Config{URI: named})
	wantRefused(t, err, "hsm list --objects")
	token.withKey(t, ECDSAP256, "audit")
	token.withKey(t, ECDSAP256, "audit")
	_, err = OpenSigner(t.Context(), Config{URI: named})
	wantRefused(t, err, "object and id")
	wrong := strings.Replace(named, "pin-source="+token.dir+"/pin", "pin-value=1111", 1)
	_, err = OpenSigner(t.Context(), Config{URI: wrong})
	wantGone(t, err, "first refusal")
}

func TestInventory(t *testing.T) {
	token := newSoftHSM(t)
	token.withKey(t, ECDSAP256, "audit")
	check := func(labels string) {
		t.Helper()
		listing, err := Inventory(t.Context(), Config{URI: token.uri})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, key := range listing.Tokens[0].Keys {
			got = append(got, key.Label+"/"+key.Algorithm)
			if len(key.SPKI) != 64 || len(key.ID) != 32 {
				t.Errorf("%+v", key)
			}
		}
		if joined := strings.Join(got, " "); joined != labels {
			t.Errorf("got %s, want %s", joined, labels)
		}
	}
	check("audit/ecdsa-p256")
	token.withKey(t, Ed25519, "second") // which crypto11 can't read
	listing, err := Inventory(t.Context(), Config{URI: token.uri})
	if err != nil || len(listing.Tokens[0].Keys) != 2 {
		t.Errorf("%+v, %v", listing, err)
	}
}

func TestSignerStopsWithItsContext(t *testing.T) {
	token := newSoftHSM(t)
	uri, _ := token.withKey(t, ECDSAP256, "audit")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenSigner(ctx, Config{URI: uri}); err == nil {
		t.Error("opened with a context that had ended")
	}
}
