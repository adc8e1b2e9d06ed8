package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"keymill/pipeline/ledger"
	"keymill/pipeline/mender/sandbox"
)

// tokenLot runs a lot whose keys stay in the token, and returns how many lie there.
func (s *station) tokenLot(devices int) {
	s.t.Helper()
	if code, log := s.do(s.lot("--keys", "token")); code != 0 {
		s.t.Fatalf("exit %d: %s", code, log)
	}
	s.checkLot(devices)
	s.checkKeys(devices)
}

// checkKeys counts the key pairs that lie in the token.
func (s *station) checkKeys(want int) {
	s.t.Helper()
	code, out := s.do([]string{"hsm", "list", "--objects", "--json", "--hsm", s.uri, "--ledger", s.ledger})
	if n := strings.Count(out, `"spki_sha256"`); code != 0 || n != want {
		s.t.Errorf("exit %d, %d keys in the token, want %d: %s", code, n, want, out)
	}
}

// TestUndoTakesKeysOutOfTheToken, also after gc has looked at them; where the
// token has shipped, it says that they stay.
func TestUndoTakesKeysOutOfTheToken(t *testing.T) {
	t.Parallel()
	undo := []string{"undo", "lot", "--yes"}
	t.Run("destroyed", func(t *testing.T) {
		s := newStation(newFactory(t, 3, sandbox.Config{}))
		s.tokenLot(3)
		at := []string{"--ledger", s.ledger, "--server", s.server, "--token-file", s.path("sb", "token"), "--ca-file", s.path("sb", "ca.crt")}
		if code, out := s.do([]string{"hsm", "gc", "--destroy", "--hsm", s.uri, "--ledger", s.ledger}); code != 0 || !strings.Contains(out, "nothing was left") {
			t.Errorf("exit %d: %s", code, out)
		}
		s.checkKeys(3)
		away := s.path("token", "away")
		if err := os.Rename(s.path("token", "tokens"), away); err != nil {
			t.Fatal(err)
		}
		code, out := s.do(append(append(undo, at...), "--hsm", s.uri))
		if code != exitHSM || !strings.Contains(out, "--keys-stay") || countDevices(s.box) != 3 {
			t.Errorf("without the token: exit %d, want %d, what to do, and nothing changed: %s", code, exitHSM, out)
		}
		if err := os.Rename(away, s.path("token", "tokens")); err != nil {
			t.Fatal(err)
		}
		if code, out := s.do(append(append(undo, at...), "--hsm", s.uri)); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		s.checkKeys(0)
		s.checkEvents("undone", "destroyed", 3)
		s.checkEvidence()
		if n := countDevices(s.box); n != 0 {
			t.Errorf("the server has %d devices", n)
		}
	})
	t.Run("stay", func(t *testing.T) {
		s := newStation(newFactory(t, 2, sandbox.Config{}))
		s.tokenLot(2)
		at := []string{"--ledger", s.ledger, "--server", s.server, "--token-file", s.path("sb", "token"), "--ca-file", s.path("sb", "ca.crt")}
		if code, out := s.do(append(append(undo, at...), "--keys-stay")); code != 0 || !strings.Contains(out, "hsm gc --destroy") {
			t.Fatalf("exit %d: %s", code, out)
		}
		s.checkKeys(2)
		s.checkEvents("undone", "in-token", 2)
		s.checkEvidence()
		s.checkTokenEmpty() // its gc finds that they are nobody's now
	})
}

// checkEvidence: the auditor's program finds nothing wrong with the lot.
func (s *station) checkEvidence() {
	s.t.Helper()
	code, key := s.do([]string{"audit", "key", "--ledger", s.ledger})
	if code != 0 {
		s.t.Fatalf("exit %d: %s", code, key)
	}
	if err := os.WriteFile(s.path("station.pem"), []byte(key), 0o600); err != nil {
		s.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"export", "lot", "-o", s.path("bundle"), "--format", "csv", "--ledger", s.ledger},
		{"audit", "verify", s.path("bundle"), "--key", s.path("station.pem")},
	} {
		if code, out := s.do(args); code != 0 {
			s.t.Errorf("%v: exit %d: %s", args, code, out)
		}
	}
}

// TestRekeyInToken: the old key leaves the token, and the new one is its only key.
func TestRekeyInToken(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 3, sandbox.Config{}))
	s.tokenLot(3)
	before := s.records()[1]
	code, out := s.do([]string{"retry", "lot", "--rekey", before.Identity.Name(), "--hsm", s.uri, "--ledger", s.ledger,
		"--server", s.server, "--token-file", s.path("sb", "token"), "--ca-file", s.path("sb", "ca.crt")})
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkLot(3)
	s.checkKeys(3)
	s.checkEvents("rekeyed", "destroyed", 1)
	s.checkEvidence()
	if after := s.records()[1]; bytes.Equal(after.PublicKey, before.PublicKey) {
		t.Error("the device has its old key")
	}
}

// TestPlanLeavesNoKeyInTheToken: a dry run changes nothing there either.
func TestPlanLeavesNoKeyInTheToken(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 3, sandbox.Config{}))
	for _, keys := range []string{"token", "hsm"} {
		plan := append([]string{"plan"}, s.lot("--keys", keys)[1:]...)
		if code, out := s.do(plan); code != 0 || !strings.Contains(out, "Keys:     ecdsa-p256, "+keys) {
			t.Fatalf("exit %d: %s", code, out)
		}
		if code, out := s.do([]string{"image", "plan", "--golden", s.path("golden.sdimg"), "--ledger", s.ledger},
			"KEYMILL_KEYS_SOURCE="+keys, "KEYMILL_KEYS_HSM="+s.uri, "KEYMILL_KEYS_ALGORITHM=ecdsa-p256"); code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
		s.checkKeys(0)
	}
}

// checkEvents counts the lot's events with an action and what they say of the key.
func (s *station) checkEvents(action, key string, want int) {
	s.t.Helper()
	db, err := ledger.Open(s.t.Context(), s.ledger)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	n := 0
	for event, err := range db.Events(s.t.Context(), "lot") {
		if err != nil {
			s.t.Fatal(err)
		}
		if text := string(event.Canonical); strings.Contains(text, `"action":"`+action+`"`) && strings.Contains(text, `"key":"`+key+`"`) {
			n++
		}
	}
	if n != want {
		s.t.Errorf("%d events say that a device was %s and its key %s, want %d", n, action, key, want)
	}
}

// TestTokenLotKillNine: after any number of kills the token holds exactly the
// keys of the lot's devices.
func TestTokenLotKillNine(t *testing.T) {
	t.Parallel()
	const devices = 150
	s := newStation(newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond}}))
	args := s.lot("--keys", "token", "--in-flight", "4")
	killed := s.killInTheMiddle(args, 6, s.env...)
	t.Logf("killed %d times in the middle", killed)
	s.box.SetFaults(sandbox.Faults{})
	if code, out := s.do(args); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkLot(devices)
	if code, out := s.do([]string{"hsm", "gc", "--destroy", "--hsm", s.uri, "--ledger", s.ledger}); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkKeys(devices)
	s.checkEvidence()
}
