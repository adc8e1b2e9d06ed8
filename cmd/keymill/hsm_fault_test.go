package main

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"keymill/pipeline/mender/sandbox"
)

// Return values and flags of PKCS#11.
const (
	ckrDeviceError          = 0x30
	ckrDeviceMemory         = 0x31
	ckrPINIncorrect         = 0xA0
	ckrSessionHandleInvalid = 0xB3
	ckfUserPINLocked        = 0x40000
)

// TestTokenFaults lets a token misbehave in the middle of a lot, or from the
// start: the lot survives, or stops with a code and advice. The same command
// ends it afterwards, and nothing is left in the token.
func TestTokenFaults(t *testing.T) {
	type control map[string]uint32
	for name, c := range map[string]struct {
		keys          string // default: hsm
		start, middle control
		codes         []int
		says          string
	}{
		"gone":                           {middle: control{"GONE": 1}, codes: []int{exitHSM}, says: "hint: check that the token is connected"},
		"lost for a moment":              {middle: control{"LOST": 1}, codes: []int{0}},
		"error now and then":             {start: control{"FAIL_EVERY": 100, "FAIL_CODE": ckrDeviceError}, codes: []int{0, exitDevices}},
		"no session lasts":               {middle: control{"FAIL_EVERY": 2, "FAIL_CODE": ckrSessionHandleInvalid}, codes: []int{exitHSM}, says: "hint: "},
		"full":                           {middle: control{"GENERATE_CODE": ckrDeviceMemory}, codes: []int{exitHSM}, says: "hint: the token is full"},
		"PIN changed":                    {middle: control{"LOGIN_CODE": ckrPINIncorrect, "LOGINS": 0, "LOST": 1}, codes: []int{exitHSM}, says: "stopped at the first refusal"},
		"locked":                         {middle: control{"TOKEN_FLAGS": ckfUserPINLocked, "LOST": 1}, codes: []int{exitHSM}, says: "hint: unlock it"},
		"locked at the start":            {start: control{"TOKEN_FLAGS": ckfUserPINLocked}, codes: []int{exitHSM}, says: "hint: unlock it"},
		"few sessions":                   {start: control{"SESSION_LIMIT": 2}, codes: []int{0}},
		"a flipped bit":                  {middle: control{"CORRUPT": 1}, codes: []int{0}},
		"the module crashes":             {middle: control{"CRASH_AFTER": 1}, codes: []int{exitHSM}, says: "crashed (SIGSEGV)"},
		"crashes with keys in the token": {start: control{"TOKEN_ONLY": 1}, middle: control{"CRASH_AFTER": 3}, codes: []int{exitHSM}, says: "crashed (SIGSEGV)"},
		"repeats itself":                 {keys: "hsm-entropy", middle: control{"REPEAT": 1}, codes: []int{exitHSM}, says: "hint: don't use this token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const devices = 150
			s := newBadStation(newFactory(t, devices, sandbox.Config{}))
			s.set("LATENCY_US", 2000) // so that there is a middle
			s.setAll(c.start)
			args := s.lot("--keys", cmp.Or(c.keys, "hsm"), "--workers", "32")
			cmd, log := s.start(args, "KEYMILL_KEYS_SESSIONS=3")
			if c.middle != nil {
				s.waitForDevices(20)
				s.setAll(c.middle)
			}
			if code := s.ended(cmd); !slices.Contains(c.codes, code) || !strings.Contains(log.String(), c.says) {
				t.Fatalf("exit %d, want one of %d and %q: %s", code, c.codes, c.says, log)
			}
			if c.middle["LOGIN_CODE"] != 0 && s.get("LOGINS") != 1 {
				t.Errorf("%d tries with a PIN that was refused", s.get("LOGINS"))
			}
			for field := range c.middle {
				s.set(field, 0)
			}
			s.set("TOKEN_FLAGS", 0)
			s.set("FAIL_EVERY", 0)
			if code, out := s.do(args); code != 0 {
				t.Fatalf("once more: exit %d: %s", code, out)
			}
			s.checkLot(devices)
			s.checkTokenEmpty()
		})
	}
}

func (s *hsmStation) setAll(fields map[string]uint32) {
	s.t.Helper()
	for _, name := range []string{"LOGINS", "LOGIN_CODE", "TOKEN_FLAGS", "FAIL_CODE"} { // before what brings them out
		if value, ok := fields[name]; ok {
			s.set(name, value)
		}
	}
	for name, value := range fields {
		s.set(name, value)
	}
}
