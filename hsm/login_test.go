//go:build cgo

package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// opened is every way to open a token, by verb.
func opened(t *testing.T, bad *badToken, key string) map[string]func(Config) error {
	t.Helper()
	closing := func(closer interface{ Close() error }, err error) error {
		if err != nil {
			return err
		}
		return closer.Close()
	}
	source := func(mode Mode) func(Config) error {
		return func(cfg Config) error {
			s, err := Open(t.Context(), mode, ECDSAP256, cfg)
			if err == nil {
				_, _, err = s.Generate(t.Context(), "device")
				err = errors.Join(err, s.Close())
			}
			return err
		}
	}
	named := strings.Replace(key, bad.uri, "", 1)
	return map[string]func(Config) error{
		"run hsm": source(ModeHSM), "run hsm-entropy": source(ModeEntropy), "run token": source(ModeToken),
		"hsm list --objects": func(cfg Config) error { _, err := Inventory(t.Context(), cfg); return err },
		"hsm test":           func(cfg Config) error { _, err := Test(t.Context(), cfg, ECDSAP256); return err },
		"hsm bench": func(cfg Config) error {
			_, err := Bench(t.Context(), cfg, BenchOptions{Algorithms: []Algorithm{ECDSAP256}, Sessions: []int{1, 2}, Duration: time.Millisecond})
			return err
		},
		"hsm gc": func(cfg Config) error { _, err := GC(t.Context(), cfg, GCOptions{}); return err },
		"undo":   func(cfg Config) error { return closing(OpenKept(t.Context(), cfg)) },
		"audit key": func(cfg Config) error {
			cfg.URI = named
			return closing(OpenSigner(t.Context(), cfg))
		},
	}
}

// badWithKey is a token with an audit key in it.
func badWithKey(t *testing.T) (bad *badToken, key string) {
	t.Helper()
	bad = newBadToken(t)
	key, _ = bad.withKey(t, ECDSAP256, "audit")
	return bad, key
}

// Whatever C_Login says that may count as a try, a process says it once: each
// verb, and all of them after each other.
func TestOneLogin(t *testing.T) {
	bad, key := badWithKey(t)
	for name, test := range map[string]struct {
		code uint
		hint string // "" where the login succeeds
	}{
		"right":               {0, ""},
		"wrong":               {pkcs11.CKR_PIN_INCORRECT, "first refusal"},
		"another user":        {pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, "another user"},
		"vendor's code":       {0x80000123, "vendor's manual"},
		"device error":        {pkcs11.CKR_DEVICE_ERROR, "vendor's manual"},
		"general error":       {pkcs11.CKR_GENERAL_ERROR, "vendor's manual"},
		"function failed":     {pkcs11.CKR_FUNCTION_FAILED, "vendor's manual"},
		"not in the standard": {0x3FF, "vendor's manual"},
	} {
		for verb, open := range opened(t, bad, key) {
			t.Run(name+"/"+verb, func(t *testing.T) {
				modules := NewModules()
				defer modules.Close()
				cfg := bad.config(t)
				cfg.Modules = modules
				bad.set(loginsMade, 0)
				bad.set(loginCode, test.code)
				defer bad.set(loginCode, 0)
				for range 2 {
					err := open(cfg)
					if test.hint == "" && err != nil {
						t.Errorf("%v (hint %q)", err, Hint(err))
					}
					if test.hint != "" {
						wantGone(t, err, test.hint)
					}
				}
				if n := bad.get(loginsMade); n != 1 {
					t.Errorf("C_Login was called %d times", n)
				}
			})
		}
	}
}

// All verbs of a process after each other, and at once, log in once.
func TestOneLoginForAll(t *testing.T) {
	bad, key := badWithKey(t)
	modules := NewModules()
	defer modules.Close()
	bad.set(loginsMade, 0)
	asked := 0
	for range 2 {
		for verb, open := range opened(t, bad, key) {
			cfg := bad.config(t)
			cfg.Modules = modules
			cfg.URI = strings.Replace(cfg.URI, "&pin-source="+bad.dir+"/pin", "", 1)
			cfg.PIN = func(context.Context, string) ([]byte, error) { asked++; return []byte("4321"), nil }
			if err := open(cfg); err != nil {
				t.Errorf("%s: %v", verb, err)
			}
		}
	}
	if n := bad.get(loginsMade); n != 1 || asked > 1 {
		t.Errorf("C_Login was called %d times, the PIN asked for %d times", n, asked)
	}
	if n := bad.get(openNow); n != 1 {
		t.Errorf("%d sessions are open between two uses, want the one that keeps the login", n)
	}
}

// Answers that can't have counted as a try are tried again.
func TestUncountedAnswers(t *testing.T) {
	bad := newBadToken(t)
	for _, code := range uncounted {
		bad.set(loginCode, uint(code))
		bad.set(loginsMade, 0)
		_, err := Open(t.Context(), ModeHSM, ECDSAP256, bad.config(t))
		wantGone(t, err, "connected")
		if n := bad.get(loginsMade); n != 3 {
			t.Errorf("%v: %d tries", code, n)
		}
	}
}

// A person at the terminal is asked once at one start, whatever the answer.
func TestAskedOnce(t *testing.T) {
	bad := newBadToken(t)
	for _, pin := range []string{"4321", "1111"} {
		modules := NewModules()
		asked := 0
		cfg := bad.config(t)
		cfg.Modules = modules
		cfg.URI = strings.Replace(cfg.URI, "&pin-source="+bad.dir+"/pin", "", 1)
		cfg.PIN = func(_ context.Context, token string) ([]byte, error) {
			asked++
			if token != "factory" {
				t.Errorf("asked for the PIN of %q", token)
			}
			return []byte(pin), nil
		}
		bad.set(loginsMade, 0)
		for range 3 {
			source, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
			if (err == nil) != (pin == "4321") {
				t.Error(err)
			}
			if err == nil {
				source.Close()
			}
		}
		if err := modules.Close(); err != nil {
			t.Error(err)
		}
		if asked != 1 || bad.get(loginsMade) != 1 {
			t.Errorf("asked %d times, tried %d times", asked, bad.get(loginsMade))
		}
	}
}

// Who corrects the file with the PIN need not restart a process that runs for days.
func TestCorrectedPINFile(t *testing.T) {
	bad := newBadToken(t)
	modules := NewModules()
	defer modules.Close()
	cfg := bad.config(t)
	cfg.Modules = modules
	wrong, right := writeFile(t, "1111", 0o600), writeFile(t, "4321", 0o600)
	bad.set(loginsMade, 0)
	for i, path := range []string{wrong, wrong, right} {
		cfg.URI = strings.Replace(bad.uri, bad.dir+"/pin", path, 1)
		source, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
		if (err == nil) != (path == right) {
			t.Errorf("%d: %v", i, err)
		}
		if err == nil {
			source.Close()
		}
	}
	if n := bad.get(loginsMade); n != 2 {
		t.Errorf("%d tries for two PINs", n)
	}
}

func TestTokenWithoutALogin(t *testing.T) {
	bad, key := badWithKey(t)
	bad.set(clearFlags, flagLoginRequired)
	bad.set(loginsMade, 0)
	for verb, open := range opened(t, bad, key) {
		cfg := bad.config(t)
		cfg.URI = strings.Replace(cfg.URI, "&pin-source="+bad.dir+"/pin", "", 1)
		cfg.PIN = func(context.Context, string) ([]byte, error) { return nil, errors.New("asked for a PIN") }
		if err := open(cfg); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if n := bad.get(loginsMade); n != 0 {
		t.Errorf("%d logins", n)
	}
}

func TestPINPad(t *testing.T) {
	bad, key := badWithKey(t)
	bad.set(padOnly, 1)
	for verb, open := range opened(t, bad, key) {
		bad.set(loginsMade, 0)
		modules := NewModules()
		var told []string
		cfg := bad.config(t)
		cfg.Modules, cfg.Timeout = modules, 77*time.Second
		cfg.PIN = func(context.Context, string) ([]byte, error) { return nil, errors.New("asked for a PIN") }
		cfg.Tell = func(message string) { told = append(told, message) }
		if err := open(cfg); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		if len(told) != 1 || !strings.Contains(told[0], "factory") || !strings.Contains(told[0], "1m17s") {
			t.Errorf("%s: told %q", verb, told)
		}
		if n := bad.get(loginsMade); n != 1 {
			t.Errorf("%s: %d logins", verb, n)
		}
		if err := modules.Close(); err != nil {
			t.Error(err)
		}
	}
	bad.set(loginCode, pkcs11.CKR_FUNCTION_CANCELED)
	_, err := Open(t.Context(), ModeHSM, ECDSAP256, bad.config(t))
	wantGone(t, err, "enter the PIN")
}

func TestReadOnlyToken(t *testing.T) {
	bad, key := badWithKey(t)
	bad.set(readOnly, 1)
	for verb, open := range opened(t, bad, key) {
		err := open(bad.config(t))
		if verb == "run token" {
			wantRefused(t, err, "hsm test")
		} else if err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

func TestSessionNumbersUnknown(t *testing.T) {
	bad := newBadToken(t)
	for form := range uint(2) {
		bad.set(mostSessions, form+1)
		listing, err := List(t.Context(), Config{URI: bad.uri})
		if err != nil || listing.Tokens[0].MaxSessions != nil || listing.Tokens[0].OpenSessions != nil {
			t.Fatalf("%+v, %v", listing, err)
		}
		checkTable(t, listing, "unknown open of unknown")
		if source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t)); source.(*wrapped).pool.most != defaultSessions {
			t.Errorf("%d sessions", source.(*wrapped).pool.most)
		}
	}
}

// Every return code is told by name, or as what it is.
func TestReturnCodesHaveNames(t *testing.T) {
	bad := newBadToken(t)
	for code, want := range map[uint]string{
		0x80000042: "the vendor's own code 0x80000042", 0x3FF: "the return code 0x3FF", pkcs11.CKR_PIN_INCORRECT: "CKR_PIN_INCORRECT",
	} {
		bad.set(loginCode, code)
		_, err := Open(t.Context(), ModeHSM, ECDSAP256, bad.config(t))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pkcs11:  ") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestWhyAModuleDoesNotLoad(t *testing.T) {
	for path, want := range map[string]string{
		writeFile(t, "no library", 0o600):                                                                                 "file too short",
		writeFile(t, string(bytes.Repeat([]byte("no ELF "), 100)), 0o600):                                                 "invalid ELF header",
		needFile(t, "libc6", "/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/usr/lib/libm.so.6"): "C_GetFunctionList",
	} {
		_, err := List(t.Context(), Config{URI: "pkcs11:?module-path=" + path})
		wantRefused(t, err, "ldd")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestSmallPortionsOfRandomNumbers(t *testing.T) {
	bad := newBadToken(t)
	for _, most := range []uint{1024, 100, 16} {
		bad.set(randomMost, most)
		source := mustOpen(t, ModeEntropy, ECDSAP256, bad.config(t))
		for range 50 {
			private, public, err := source.Generate(t.Context(), "")
			if err != nil {
				t.Fatalf("%d at once: %v", most, err)
			}
			checkPair(t, ECDSAP256, private, public)
		}
	}
	bad.set(randomMost, 8)
	_, err := Open(t.Context(), ModeEntropy, ECDSAP256, bad.config(t))
	wantRefused(t, err, "--keys hsm")
}

func TestFormsOfPoints(t *testing.T) {
	bad := newBadToken(t)
	for form := range uint(3) {
		bad.set(pointForm, form)
		for _, alg := range []Algorithm{ECDSAP256, ECDSAP384} {
			source := mustOpen(t, ModeHSM, alg, bad.config(t))
			private, public, err := source.Generate(t.Context(), "")
			if err != nil {
				t.Fatalf("form %d, %s: %v", form, alg, err)
			}
			checkPair(t, alg, private, public)
		}
		source := mustOpen(t, ModeToken, Ed25519, bad.config(t))
		if _, _, err := source.Generate(t.Context(), fmt.Sprintf("device-%d", form)); err != nil {
			t.Error(err)
		}
	}
}
