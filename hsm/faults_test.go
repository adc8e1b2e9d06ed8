//go:build cgo

package hsm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// generate makes n keys with some workers, and returns every error.
func generate(t testing.TB, source Source, workers, n int) (errs []error) {
	t.Helper()
	jobs := make(chan int, n)
	for i := range n {
		jobs <- i
	}
	close(jobs)
	var (
		mu   sync.Mutex
		work sync.WaitGroup
	)
	for range workers {
		work.Go(func() {
			for range jobs {
				private, public, err := source.Generate(t.Context(), "device")
				if err == nil {
					checkPair(t, ECDSAP256, private, public)
					continue
				}
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return errs
}

// No device is lost to errors that pass.
func TestPassingErrors(t *testing.T) {
	for name, code := range map[string]uint{
		"device error": pkcs11.CKR_DEVICE_ERROR, "session closed": pkcs11.CKR_SESSION_HANDLE_INVALID,
		"general error": pkcs11.CKR_GENERAL_ERROR, "memory": pkcs11.CKR_DEVICE_MEMORY, "logged out": pkcs11.CKR_USER_NOT_LOGGED_IN,
		"operation active": pkcs11.CKR_OPERATION_ACTIVE,
	} {
		t.Run(name, func(t *testing.T) {
			bad := newBadToken(t)
			bad.set(failEvery, 100)
			bad.set(failCode, code)
			source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
			if errs := generate(t, source, 1, 100); len(errs) > 0 {
				t.Errorf("%d devices of 100 failed, the first: %v", len(errs), errs[0])
			}
			// With many at once a device can be hit twice: then it alone fails.
			errs := generate(t, source, 8, 300)
			if len(errs) > 15 {
				t.Errorf("%d devices of 300 failed, the first: %v", len(errs), errs[0])
			}
			for _, err := range errs {
				if _, isGone := errors.AsType[*GoneError](err); isGone {
					t.Errorf("the lot is stopped by %v", err)
				}
			}
			bad.set(failEvery, 0) // so that closing succeeds
			if n := bad.objects(t); n != 0 {
				t.Errorf("%d objects left", n)
			}
		})
	}
}

func TestSourceOpensDespiteAPassingError(t *testing.T) {
	bad := newBadToken(t)
	for n := uint(50); n < 90; n += 3 {
		bad.set(failEvery, n)
		bad.set(failCode, pkcs11.CKR_DEVICE_ERROR)
		source, err := Open(t.Context(), ModeHSM, ECDSAP256, bad.config(t))
		if err != nil {
			t.Errorf("every %dth call fails: %v", n, err)
			continue
		}
		bad.set(failEvery, 0)
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLostConnectionIsInitialisedAgain(t *testing.T) {
	bad := newBadToken(t)
	source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
	for range 3 {
		if errs := generate(t, source, 8, 40); len(errs) > 0 {
			t.Fatalf("%d failed: %v", len(errs), errs[0])
		}
		bad.set(lost, 1)
	}
	if errs := generate(t, source, 8, 40); len(errs) > 0 {
		t.Fatalf("%d failed: %v", len(errs), errs[0])
	}
}

func TestTokenTakenAway(t *testing.T) {
	bad := newBadToken(t)
	source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
	bad.set(goneForGood, 1)
	for _, err := range generate(t, source, 8, 20) {
		wantGone(t, err, "connected")
	}
	bad.set(goneForGood, 0)
	if errs := generate(t, source, 8, 20); len(errs) > 0 {
		t.Errorf("it came back, and still: %v", errs[0])
	}
}

// SoftHSM keeps session objects in memory: without its folder it goes on, or says that it is gone.
func TestTokenFolderMoved(t *testing.T) {
	token := newSoftHSM(t)
	source, err := Open(t.Context(), ModeHSM, ECDSAP256, token.config(t))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	folder := filepath.Join(token.dir, "tokens")
	if err := os.Rename(folder, folder+".moved"); err != nil {
		t.Fatal(err)
	}
	for _, err := range generate(t, source, 4, 20) {
		wantGone(t, err, "")
	}
	_, err = OpenSigner(t.Context(), Config{URI: strings.Replace(token.uri, "?", ";object=a?", 1)})
	if err == nil {
		t.Error("found a key in a token that isn't there")
	}
	if err := os.Rename(folder+".moved", folder); err != nil {
		t.Fatal(err)
	}
	if errs := generate(t, source, 4, 20); len(errs) > 0 {
		t.Errorf("it came back, and still: %v", errs[0])
	}
}

// permits returns how many sessions are free or could be opened.
func permits(source Source) int {
	p := source.(*wrapped).pool
	return len(p.idle) + len(p.spare)
}

func TestHangingModule(t *testing.T) {
	bad := newBadToken(t)
	cfg := bad.config(t)
	cfg.Limits.Sessions = 2
	t.Run("survived", func(t *testing.T) {
		source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
		bad.set(hangMS, 500)
		if errs := generate(t, source, 4, 50); len(errs) > 0 {
			t.Errorf("%d failed: %v", len(errs), errs[0])
		}
	})
	t.Run("given up", func(t *testing.T) {
		cfg := cfg
		cfg.Timeout = 1500 * time.Millisecond
		source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
		bad.set(hangMS, 4000)
		if errs := generate(t, source, 2, 20); len(errs) > 0 {
			t.Errorf("the other session should have made them all: %v", errs[0])
		}
		eventually(t, func() bool { return permits(source) == 2 })
	})
	t.Run("interrupted", func(t *testing.T) {
		source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
		bad.set(hangMS, 1000)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			eventually(t, func() bool { return bad.get(hangMS) == 0 })
			cancel()
		}()
		_, _, err := source.Generate(ctx, "")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if source.(*wrapped).pool.mod.calls.TryAcquire(allCalls) {
			t.Error("Generate waited for the module")
		}
	})
	t.Run("all sessions hang", func(t *testing.T) {
		cfg := cfg
		cfg.Timeout, cfg.Limits.Sessions = time.Second, 1
		source, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
		if err != nil {
			t.Fatal(err)
		}
		bad.set(hangMS, 6000)
		_, _, err = source.Generate(t.Context(), "")
		wantGone(t, err, "restart the token")
		if err := source.Close(); !errors.Is(err, errHung) {
			t.Errorf("closed under a running call: %v", err)
		}
		eventually(t, func() bool { return permits(source) == 1 })
		if err := source.(*wrapped).pool.mod.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSessionsUsedUp(t *testing.T) {
	bad := newBadToken(t)
	cfg := bad.config(t)
	cfg.Limits.Sessions = 8
	bad.set(sessionLimit, 3)
	source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
	if errs := generate(t, source, 16, 200); len(errs) > 0 {
		t.Errorf("%d failed: %v", len(errs), errs[0])
	}
	if n := bad.get(mostOpen); n > 4 { // the one too many is counted before it is refused
		t.Errorf("%d sessions were open", n)
	}
}

func TestNoSessionLeft(t *testing.T) {
	bad := newBadToken(t)
	first := mustOpen(t, ModeEntropy, Ed25519, bad.config(t))
	bad.set(sessionLimit, 1)
	_, err := Open(t.Context(), ModeHSM, ECDSAP256, bad.config(t))
	wantGone(t, err, "end the other programs")
	if _, _, err := first.Generate(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

func TestPoolKeepsToItsSessions(t *testing.T) {
	bad := newBadToken(t)
	cfg := bad.config(t)
	cfg.Limits.Sessions = 3
	source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
	if errs := generate(t, source, 16, 100); len(errs) > 0 {
		t.Fatal(errs[0])
	}
	if n := bad.get(mostOpen); n > 3 {
		t.Errorf("%d sessions were open", n)
	}
	if n := bad.get(loginsMade); n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestPINManners(t *testing.T) {
	bad := newBadToken(t)
	for name, test := range map[string]struct {
		field  int
		value  uint
		hint   string
		logins int
	}{
		"wrong":     {loginCode, pkcs11.CKR_PIN_INCORRECT, "first refusal", 1},
		"locked":    {loginCode, pkcs11.CKR_PIN_LOCKED, "unlock", 1},
		"expired":   {loginCode, pkcs11.CKR_PIN_EXPIRED, "new PIN", 1},
		"not set":   {loginCode, pkcs11.CKR_USER_PIN_NOT_INITIALIZED, "set the user's PIN", 1},
		"is locked": {tokenFlags, flagPINLocked, "unlock", 0},
		"last try":  {tokenFlags, flagPINFinalTry, "log in once by hand", 0},
	} {
		t.Run(name, func(t *testing.T) {
			bad.set(loginsMade, 0)
			bad.set(test.field, test.value)
			defer bad.set(test.field, 0)
			for _, mode := range []Mode{ModeHSM, ModeEntropy, ModeToken} {
				_, err := Open(t.Context(), mode, ECDSAP256, bad.config(t))
				wantGone(t, err, test.hint)
				if err != nil && strings.Contains(err.Error(), "4321") {
					t.Error("the error shows the PIN")
				}
			}
			if n := bad.get(loginsMade); n != 3*test.logins {
				t.Errorf("%d tries, want one for each opening at most", n)
			}
		})
	}
	t.Run("changed in the middle", func(t *testing.T) {
		source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
		bad.set(loginCode, pkcs11.CKR_PIN_INCORRECT)
		bad.set(lost, 1)
		bad.set(loginsMade, 0)
		for _, err := range generate(t, source, 8, 20) {
			wantGone(t, err, "first refusal")
		}
		if n := bad.get(loginsMade); n != 1 {
			t.Errorf("%d tries with a PIN that was refused", n)
		}
		bad.set(loginCode, 0)
	})
}

func TestAKeyThatWasChangedOnItsWay(t *testing.T) {
	bad := newBadToken(t)
	source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
	bad.set(corrupt, 1)
	if errs := generate(t, source, 1, 2); len(errs) > 0 {
		t.Errorf("once is forgiven: %v", errs[0])
	}
}

func TestRandomNumbersThatRepeat(t *testing.T) {
	bad := newBadToken(t)
	source := mustOpen(t, ModeEntropy, Ed25519, bad.config(t))
	bad.set(repeat, 1)
	var err error
	for range 200 { // what was drawn before is good
		if _, _, err = source.Generate(t.Context(), ""); err != nil {
			break
		}
	}
	wantGone(t, err, "maker")
}

// A module without session objects: keys lie in the token, journaled, until they are out.
func TestTokenObjectsOnly(t *testing.T) {
	bad := newBadToken(t)
	bad.set(tokenOnly, 1)
	t.Run("needs a journal", func(t *testing.T) {
		_, err := Open(t.Context(), ModeHSM, ECDSAP256, Config{URI: bad.uri})
		wantRefused(t, err, "--keys token")
	})
	t.Run("leaves nothing", func(t *testing.T) {
		cfg := bad.config(t)
		source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
		if errs := generate(t, source, 4, 30); len(errs) > 0 {
			t.Error(errs[0])
		}
		if open := cfg.Journal.(*FileJournal).Open(); len(open) > 0 || bad.objects(t) > 0 {
			t.Errorf("%d entries open, %d objects left", len(open), bad.objects(t))
		}
	})
	t.Run("keeps to the limit of objects", func(t *testing.T) {
		cfg := bad.config(t)
		cfg.Limits = Limits{Objects: 5, Sessions: 8}
		source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
		if errs := generate(t, source, 8, 30); len(errs) > 0 {
			t.Error(errs[0])
		}
		if n := source.(*wrapped).pool.most; n != 2 {
			t.Errorf("%d sessions, of which each may hold two objects", n)
		}
		cfg.Limits.Objects = 1
		_, err := Open(t.Context(), ModeHSM, ECDSAP256, cfg)
		wantRefused(t, err, "hsm gc")
	})
	t.Run("what can't be destroyed is found again", func(t *testing.T) {
		cfg := bad.config(t)
		source := mustOpen(t, ModeHSM, ECDSAP256, cfg)
		if errs := generate(t, source, 4, 30); len(errs) > 0 {
			t.Fatal(errs[0])
		}
		bad.set(destroyCode, pkcs11.CKR_DEVICE_ERROR)
		if _, _, err := source.Generate(t.Context(), ""); err == nil {
			t.Error("a key was handed out that is still in the token")
		}
		bad.set(destroyCode, 0)
		journal := cfg.Journal.(*FileJournal)
		report, err := GC(t.Context(), cfg, GCOptions{Destroy: true, Journaled: journal.Open()})
		if err != nil || len(report.Left) == 0 || bad.objects(t) != 0 || len(journal.Open()) != 0 {
			t.Errorf("%+v, %v; %d objects left", report, err, bad.objects(t))
		}
	})
}

func TestLimits(t *testing.T) {
	token := newSoftHSM(t)
	cfg := token.config(t)
	cfg.Limits.Keys = 3
	for _, mode := range []Mode{ModeHSM, ModeEntropy, ModeToken} {
		source := mustOpen(t, mode, ECDSAP256, cfg)
		for range 3 {
			if _, _, err := source.Generate(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := source.Generate(t.Context(), "x")
		wantGone(t, err, "limit of keys")
	}
	cfg.Limits = Limits{Objects: 9} // six are there
	source := mustOpen(t, ModeToken, ECDSAP256, cfg)
	if _, _, err := source.Generate(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	_, _, err := source.Generate(t.Context(), "x")
	wantGone(t, err, "hsm gc")
}

// A module that crashes takes the process along. What it left in the token is
// found by the journal, also when the process was killed at any other moment.
func TestCrashLeavesNothingThatGCDoesntFind(t *testing.T) {
	if path := os.Getenv("KEYMILL_TEST_CRASH"); path != "" {
		cfg := Config{URI: os.Getenv("KEYMILL_TEST_URI"), Journal: openJournal(t, path)}
		generate(t, mustOpen(t, ModeHSM, ECDSAP256, cfg), 4, 1000)
		return
	}
	bad := newBadToken(t)
	bad.set(tokenOnly, 1)
	path := filepath.Join(bad.dir, "journal")
	for _, after := range []uint{2, 7, 20} {
		bad.set(crashAfter, after)
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashLeavesNothingThatGCDoesntFind$")
		cmd.Env = append(os.Environ(), "KEYMILL_TEST_CRASH="+path, "KEYMILL_TEST_URI="+bad.uri)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "SIGSEGV") {
			t.Fatalf("it should have crashed: %v\n%.2000s", err, out)
		}
		journal := openJournal(t, path)
		cfg := Config{URI: bad.uri, Journal: journal}
		if bad.objects(t) == 0 {
			t.Errorf("after %d: the crash left nothing, so that this tests nothing", after)
		}
		if _, err := GC(t.Context(), cfg, GCOptions{Destroy: true, Journaled: journal.Open()}); err != nil {
			t.Fatal(err)
		}
		if n := bad.objects(t); n != 0 {
			t.Errorf("after %d: %d objects left", after, n)
		}
	}
}

// A token that fails every key stops the lot instead of failing each device of
// it; one that fails some doesn't.
func TestTokenThatFailsEveryKey(t *testing.T) {
	for name, test := range map[string]struct {
		field int
		value uint
		hint  string
	}{
		"full":   {generateCode, pkcs11.CKR_DEVICE_MEMORY, "hsm gc"},
		"broken": {generateCode, pkcs11.CKR_FUNCTION_FAILED, "hsm test"},
		"storm":  {failEvery, 2, ""}, // of lost sessions
	} {
		t.Run(name, func(t *testing.T) {
			bad := newBadToken(t)
			bad.set(failCode, pkcs11.CKR_SESSION_HANDLE_INVALID)
			source := mustOpen(t, ModeHSM, ECDSAP256, bad.config(t))
			if errs := generate(t, source, 8, 20); len(errs) > 0 {
				t.Fatal(errs[0])
			}
			bad.set(test.field, test.value)
			errs, stopped := generate(t, source, 8, 200), 0
			for _, err := range errs {
				if _, isGone := errors.AsType[*GoneError](err); isGone {
					wantGone(t, err, test.hint)
					stopped++
				}
			}
			if stopped == 0 || len(errs)-stopped > 2*source.AtOnce() {
				t.Errorf("%d devices failed before the lot was stopped, %d after: %v", len(errs)-stopped, stopped, errs[0])
			}
			bad.set(test.field, 0)
			if errs := generate(t, source, 8, 20); len(errs) > 0 {
				t.Errorf("it works again, and still: %v", errs[0])
			}
		})
	}
}
