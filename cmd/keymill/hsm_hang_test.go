package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// hang is how long the tests' module doesn't answer: the waiting costs no CPU.
const hang = 30 * time.Second

// TestTokenHangsForHalfAMinute: with the time that a token has by default the
// lot waits and ends. With less the run stops with code 6 and says what to do,
// and the same command ends the lot. Nothing stays in the token.
func TestTokenHangsForHalfAMinute(t *testing.T) {
	t.Parallel()
	t.Run("survived", func(t *testing.T) { t.Parallel(); testHangSurvived(t) })
	t.Run("given up", func(t *testing.T) { t.Parallel(); testHangGivenUp(t, "STALL_MS", "4") })
	t.Run("the only session given up", func(t *testing.T) { t.Parallel(); testHangGivenUp(t, "HANG_MS", "1") })
	t.Run("one of the sessions given up", func(t *testing.T) { t.Parallel(); testHangOfOne(t) })
	t.Run("interrupted", func(t *testing.T) { t.Parallel(); testHangInterrupted(t) })
}

const hangDevices = 120

// hangIn makes the module hang when a lot is under way: one call or all. It
// returns when that has begun.
func (s *hsmStation) hangIn(field string, d time.Duration) {
	s.t.Helper()
	s.waitForDevices(10)
	s.set(field, uint32(d.Milliseconds()))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.get(field) != 0 {
		<-tick.C
	}
}

func newSlowStation(t *testing.T) *hsmStation {
	s := newBadStation(newFactory(t, hangDevices, sandbox.Config{}))
	s.set("LATENCY_US", 3000) // so that the lot is still under way
	return s
}

func testHangSurvived(t *testing.T) {
	s := newSlowStation(t)
	cmd, log := s.start(s.lot("--keys", "hsm"))
	s.hangIn("STALL_MS", hang)
	if code := s.ended(cmd); code != 0 {
		t.Fatalf("exit %d: %s", code, log)
	}
	s.checkLot(hangDevices)
	s.checkTokenEmpty()
}

func testHangGivenUp(t *testing.T, field, sessions string) {
	s := newSlowStation(t)
	settings := []string{"KEYMILL_KEYS_SESSIONS=" + sessions, "KEYMILL_KEYS_TIMEOUT=4s"}
	cmd, log := s.start(s.lot("--keys", "hsm"), settings...)
	s.hangIn(field, hang)
	if code := s.ended(cmd); code != exitHSM || !strings.Contains(log.String(), "hint: restart the token's service") || !strings.Contains(log.String(), "goes on from here") {
		t.Fatalf("exit %d, want %d and what to do: %s", code, exitHSM, log)
	}
	left := 0
	for _, rec := range s.records() {
		if rec.State == pipeline.Failed || rec.Reason != "" {
			t.Errorf("%s is %s (%s): the token's fault is not the device's", rec.Identity, rec.State, rec.Reason)
		}
		if rec.State == pipeline.Planned {
			left++
		}
	}
	if left == 0 {
		t.Error("the lot was done before the token hung")
	}
	if code, out := s.do(s.lot("--keys", "hsm"), settings[0]); code != 0 { // the module's next process hangs no more
		t.Fatalf("resumed: exit %d: %s", code, out)
	}
	s.checkLot(hangDevices)
	s.checkTokenEmpty()
}

// testHangOfOne: the other sessions go on, and make the device's key as well.
func testHangOfOne(t *testing.T) {
	s := newSlowStation(t)
	cmd, log := s.start(s.lot("--keys", "hsm"), "KEYMILL_KEYS_TIMEOUT=4s")
	s.hangIn("HANG_MS", hang)
	if code := s.ended(cmd); code != 0 {
		t.Fatalf("exit %d: %s", code, log)
	}
	if !strings.Contains(log.String(), "trying once more in a new session") {
		t.Errorf("the run waited for the session that hung: %s", log)
	}
	s.checkLot(hangDevices)
	s.checkTokenEmpty()
}

// testHangInterrupted: who interrupts doesn't have to wait for the token. The
// token is never back here, and has all the time: a run that waits never ends.
func testHangInterrupted(t *testing.T) {
	s := newSlowStation(t)
	cmd, log := s.start(s.lot("--keys", "hsm"), "KEYMILL_KEYS_TIMEOUT=24h")
	s.hangIn("STALL_MS", 24*time.Hour)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := s.ended(cmd); code != exitInterrupted {
		t.Errorf("exit %d, want %d: %s", code, exitInterrupted, log)
	}
	if code, out := s.do(s.lot("--keys", "hsm")); code != 0 { // the module's next process hangs no more
		t.Fatalf("resumed: exit %d: %s", code, out)
	}
	s.checkLot(hangDevices)
	s.checkTokenEmpty()
}
