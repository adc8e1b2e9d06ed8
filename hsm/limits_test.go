//go:build cgo

package hsm

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// ended waits until a module that hung can be ended: others of the process use
// the same SoftHSM.
func ended(t *testing.T, modules *Modules) {
	t.Helper()
	eventually(t, func() bool { return modules.Close() == nil })
}

// No call of the module is waited for longer than keys.timeout, and the
// audit key's are no exception.
func TestCallsThatNeverReturn(t *testing.T) {
	const long = 4000 // ms, against a limit of one second
	for name, field := range map[string]int{"C_Sign": signMS, "C_Login": loginMS, "all": stallMS} {
		t.Run(name, func(t *testing.T) {
			bad, key := badWithKey(t)
			cfg := bad.config(t)
			cfg.URI, cfg.Timeout, cfg.Modules = key, time.Second, NewModules()
			bad.set(field, long)
			_, err := OpenSigner(t.Context(), cfg)
			wantGone(t, err, "")
			if !errors.Is(err, errHung) {
				t.Error(err)
			}
			bad.set(field, 0)
			ended(t, cfg.Modules)
		})
	}
	t.Run("C_Sign after the start", func(t *testing.T) {
		bad, key := badWithKey(t)
		cfg := bad.config(t)
		cfg.URI, cfg.Timeout, cfg.Modules = key, time.Second, NewModules()
		signer, err := OpenSigner(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		bad.set(signMS, long)
		digest := sha256.Sum256(nil)
		_, err = signer.Sign(nil, digest[:], crypto.SHA256)
		wantGone(t, err, "restart the token")
		if err := signer.Close(); !errors.Is(err, errHung) {
			t.Errorf("closed under a running call: %v", err)
		}
		ended(t, cfg.Modules)
	})
	for name, field := range map[string]int{"C_Finalize": finalizeMS, "C_CloseSession": closeMS} {
		t.Run(name, func(t *testing.T) {
			bad := newBadToken(t)
			cfg := bad.config(t)
			cfg.Timeout = time.Second
			source, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
			if err != nil {
				t.Fatal(err)
			}
			bad.set(field, long)
			_ = source.Close()
			lib := source.(*wrapped).pool.mod.library
			if lib.calls.TryAcquire(allCalls) {
				t.Error("waited for the module")
				lib.calls.Release(allCalls)
			}
			bad.set(field, 0)
			eventually(t, func() bool { return source.(*wrapped).pool.mod.close() == nil && lib.calls.TryAcquire(allCalls) })
		})
	}
}

// An audit key that can't sign is found when it is opened.
func TestAuditKeyThatCannotSign(t *testing.T) {
	bad, key := badWithKey(t)
	for name, test := range map[string]struct {
		field int
		value uint
		hint  string
	}{
		"a PIN for each signature": {alwaysAuth, 1, "CKA_ALWAYS_AUTHENTICATE"},
		"not permitted":            {signCode, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, "may sign"},
		"not logged in":            {signCode, pkcs11.CKR_USER_NOT_LOGGED_IN, "may sign"},
		"too small":                {signCode, pkcs11.CKR_KEY_SIZE_RANGE, "may sign"},
		"signs something else":     {signWrong, 1, "mixed up"},
	} {
		t.Run(name, func(t *testing.T) {
			bad.set(test.field, test.value)
			defer bad.set(test.field, 0)
			cfg := bad.config(t)
			cfg.URI = key
			_, err := OpenSigner(t.Context(), cfg)
			wantRefused(t, err, test.hint)
		})
	}
	t.Run("removed", func(t *testing.T) {
		bad.set(signCode, pkcs11.CKR_DEVICE_REMOVED)
		defer bad.set(signCode, 0)
		cfg := bad.config(t)
		cfg.URI = key
		_, err := OpenSigner(t.Context(), cfg)
		wantGone(t, err, "connected")
	})
	t.Run("signs something else later", func(t *testing.T) {
		cfg := bad.config(t)
		cfg.URI = key
		signer, err := OpenSigner(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer signer.Close()
		bad.set(signWrong, 1)
		defer bad.set(signWrong, 0)
		digest := sha256.Sum256(nil)
		_, err = signer.Sign(nil, digest[:], crypto.SHA256)
		wantGone(t, err, "")
		if !errors.Is(err, errSignature) {
			t.Error(err)
		}
	})
}

// What stands in the way of a wrapping key is told as it is, and a key that
// enters the token in clear needs consent.
func TestWaysOfTheWrappingKey(t *testing.T) {
	const exported, imported = "made in the token, out once", "imported in clear"
	unsupported := uint(pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
	for name, test := range map[string]struct {
		fields    map[int]uint
		transport string
		warns     string // "" for no further warning
		refused   bool   // without consent
	}{
		"CKA_PRIVATE must be said":                   {map[int]uint{needPrivate: 1}, exported, "", false},
		"CKA_LABEL, too":                             {map[int]uint{needPrivate: 2}, exported, "", false},
		"no C_SetAttributeValue":                     {map[int]uint{setCode: unsupported}, exported, "", false},
		"neither C_SetAttributeValue nor CopyObject": {map[int]uint{setCode: unsupported, copyCode: unsupported}, exported, "stays extractable until its session ends, as the module can't change that (CKR_FUNCTION_NOT_SUPPORTED)", false},
		"no OAEP":                    {map[int]uint{oaepCode: pkcs11.CKR_MECHANISM_INVALID}, imported, "imported in clear, as keys.kek_import allows; other ways don't work with this token", true},
		"CKM_RSA_AES_KEY_WRAP alone": {map[int]uint{oaepCode: pkcs11.CKR_MECHANISM_INVALID, wrapAs: pkcs11.CKM_RSA_AES_KEY_WRAP}, "none: each key leaves", "CKR_MECHANISM_INVALID", false},
	} {
		t.Run(name, func(t *testing.T) {
			bad := newBadToken(t)
			for field, value := range test.fields {
				bad.set(field, value)
			}
			cfg := bad.config(t)
			if test.refused {
				_, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
				wantRefused(t, err, "kek_import: allow")
				if err != nil && !strings.Contains(err.Error(), "CKR_MECHANISM_INVALID") {
					t.Errorf("not the true reason: %v", err)
				}
				cfg.ImportKEK = true
			}
			source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
			if errs := generate(t, source, 4, 20); len(errs) > 0 {
				t.Fatal(errs[0])
			}
			origin := source.Origin()
			if !strings.Contains(origin.Transport, test.transport) || !strings.Contains(strings.Join(origin.Warnings, "\n"), test.warns) {
				t.Errorf("%+v", origin)
			}
			if strings.Contains(strings.Join(origin.Warnings, "\n"), "can't export") {
				t.Errorf("says what is not so: %q", origin.Warnings)
			}
		})
	}
}

// Each vendor's number is tried, and taken where the key makes the round trip.
func TestVendorsWraps(t *testing.T) {
	for mechanism, want := range map[uint]string{
		ckmCloudHSMKeyWrapPKCS5: "CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD (RFC 5649)",
		ckmCloudHSMKeyWrapZero:  "CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD (RFC 5649)",
		ckmAESKeyWrapKWP:        "CKM_AES_KEY_WRAP_KWP (RFC 5649)",
	} {
		bad := newBadToken(t)
		bad.set(wrapAs, mechanism)
		source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
		if errs := generate(t, source, 4, 20); len(errs) > 0 {
			t.Fatal(errs[0])
		}
		if got := source.Origin().Mechanism; got != want {
			t.Errorf("%x: keys leave by %s, want %s", mechanism, got, want)
		}
	}
}

// Two keys under one id, or none: names prove nothing.
func TestAuditKeysAreNotMixedUp(t *testing.T) {
	bad := newBadToken(t)
	same := strings.Replace(bad.uri, "?", ";object=audit?", 1)
	make := func(alg Algorithm, id []byte, label string) (spki []byte) {
		t.Helper()
		p, err := openPool(t.Context(), &Config{URI: bad.uri})
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		spki, err = use(t.Context(), p, func(s *session) ([]byte, error) {
			pair, err := s.generate(alg, traits{token: true, id: id, label: label})
			if err != nil {
				return nil, err
			}
			return pair.spki, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return spki
	}
	for range 3 { // as `pkcs11-tool --keypairgen` without --id leaves them
		make(ECDSAP256, []byte{}, "other")
	}
	want := make(ECDSAP256, []byte{}, "audit")
	make(RSA2048, []byte{}, "third")
	signer, err := OpenSigner(t.Context(), Config{URI: same})
	if err != nil {
		t.Fatalf("%v (%s)", err, Hint(err))
	}
	checkSigns(t, signer, signer.Public())
	if string(signer.spki) != string(want) {
		t.Error("paired with another key's public half")
	}
	signer.Close()
	make(ECDSAP256, []byte{7}, "audit")
	_, err = OpenSigner(t.Context(), Config{URI: same})
	wantRefused(t, err, "object and id")
	two := strings.Replace(bad.uri, "?", ";id=%09?", 1)
	make(ECDSAP256, []byte{9}, "a")
	make(ECDSAP256, []byte{9}, "b")
	_, err = OpenSigner(t.Context(), Config{URI: two})
	wantRefused(t, err, "object and id")
	both := strings.Replace(bad.uri, "?", ";object=b;id=%09?", 1)
	signer, err = OpenSigner(t.Context(), Config{URI: both})
	if err != nil {
		t.Fatal(err)
	}
	checkSigns(t, signer, signer.Public())
	signer.Close()
}

func TestGCOfTornPairs(t *testing.T) {
	bad, _ := badWithKey(t)
	cfg := bad.config(t)
	p, err := openPool(t.Context(), &Config{URI: bad.uri})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := use(t.Context(), p, func(s *session) (struct{}, error) {
		public, err := s.generate(ECDSAP256, traits{token: true, id: []byte("torn"), label: "device-1"})
		if err == nil {
			err = s.DestroyObject(s.handle, public.private)
		}
		if err != nil {
			return struct{}{}, err
		}
		private, err := s.generate(ECDSAP256, traits{token: true})
		if err == nil {
			err = s.DestroyObject(s.handle, private.public)
		}
		if err != nil {
			return struct{}{}, err
		}
		_, err = s.generate(ECDSAP256, traits{token: true}) // nameless, but whole
		return struct{}{}, err
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	before := bad.objects(t)
	report, err := GC(t.Context(), cfg, GCOptions{Destroy: true})
	if err != nil || len(report.Left) != 2 || report.Left[0].Destroyed || report.Left[1].Destroyed || bad.objects(t) != before {
		t.Fatalf("%+v, %v", report, err)
	}
	checkTable(t, report, "without its private one", "--torn")
	report, err = GC(t.Context(), cfg, GCOptions{Destroy: true, Torn: true})
	if err != nil || len(report.Left) != 2 || bad.objects(t) != before-2 {
		t.Errorf("%+v, %v; %d objects of %d", report, err, bad.objects(t), before)
	}
}
