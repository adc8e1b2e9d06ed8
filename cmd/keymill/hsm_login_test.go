package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"keymill/pipeline/mender/sandbox"
)

const (
	ckrUserAnotherAlreadyLoggedIn = 0x104
	ckrVendorsOwn                 = 0x80000123
)

// withAuditKey makes a key in the station's token and returns the setting that names it.
func (s *hsmStation) withAuditKey() string {
	s.t.Helper()
	needTools(s.t, "opensc", "pkcs11-tool")
	module := modulePath.FindStringSubmatch(s.uri)[1]
	cmd := exec.Command("pkcs11-tool", "--module", module, "--token-label", "factory", "--login", "--pin", "4321",
		"--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "audit", "--usage-sign")
	cmd.Env = append(cmd.Environ(), s.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return "KEYMILL_AUDIT_SIGNING_KEY=pkcs11:token=factory;object=audit"
}

// TestOneLoginEachVerb: every verb that opens a token calls C_Login once, also
// where the answer is one that nobody knows.
func TestOneLoginEachVerb(t *testing.T) {
	t.Parallel()
	s := newBadStation(newFactory(t, 5, sandbox.Config{}))
	auditKey := s.withAuditKey()
	at := []string{"--hsm", s.uri, "--ledger", s.ledger}
	verbs := map[string][]string{
		"run": s.lot("--keys", "hsm"), "hsm list": append([]string{"hsm", "list", "--objects"}, at...),
		"hsm test": append([]string{"hsm", "test", "--algorithm", "ecdsa-p256"}, at...), "hsm bench": append([]string{"hsm", "bench", "--sessions", "1"}, at...),
		"hsm gc": append([]string{"hsm", "gc"}, at...), "audit key": append([]string{"audit", "key"}, "--ledger", s.ledger),
		"plan":   append([]string{"plan"}, s.lot("--keys", "hsm")[1:]...),
		"doctor": {"doctor", "--hsm", s.uri, "--keys", "hsm", "--algorithm", "ecdsa-p256", "--server", s.server, "--ca-file", s.path("sb", "ca.crt"), "--token-file", s.path("sb", "token"), "--golden", s.path("golden.sdimg"), "--ledger", s.ledger},
	}
	for _, code := range []uint32{ckrVendorsOwn, ckrUserAnotherAlreadyLoggedIn, ckrPINIncorrect, 0} {
		for _, verb := range []string{"hsm list", "hsm test", "hsm bench", "hsm gc", "audit key", "doctor", "plan", "run"} {
			s.set("LOGIN_CODE", code)
			s.set("LOGINS", 0)
			want := 0
			if code != 0 {
				want = exitHSM
			}
			exit, out := s.do(verbs[verb], auditKey, "KEYMILL_KEYS_HSM="+s.uri)
			if exit != want {
				t.Errorf("%s, C_Login says %#x: exit %d: %s", verb, code, exit, out)
			}
			if n := s.get("LOGINS"); n != 1 {
				t.Errorf("%s, C_Login says %#x: it was called %d times: %s", verb, code, n, out)
			}
		}
	}
	s.checkLot(5)
}

// TestAuditKeyIsTriedFirst: an audit key that can't sign stops a lot before its
// first device.
func TestAuditKeyIsTriedFirst(t *testing.T) {
	t.Parallel()
	s := newBadStation(newFactory(t, 5, sandbox.Config{}))
	auditKey := s.withAuditKey()
	for name, field := range map[string]string{"not permitted": "SIGN_CODE", "a PIN for each signature": "ALWAYS_AUTH", "hangs": "SIGN_MS"} {
		value := map[string]uint32{"SIGN_CODE": 0x68, "ALWAYS_AUTH": 1, "SIGN_MS": 60_000}[field]
		s.set(field, value)
		code, out := s.do(s.lot("--keys", "software", "--algorithm", "ed25519"), auditKey, "KEYMILL_KEYS_TIMEOUT=3s")
		if code != exitHSM || !strings.Contains(out, "hint: ") {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
		if n := countDevices(s.box); n != 0 {
			t.Errorf("%s: %d devices were made", name, n)
		}
		s.set(field, 0)
	}
	if code, out := s.do(s.lot("--keys", "software", "--algorithm", "ed25519"), auditKey); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestModuleCrashesInEachPhase: wherever a module crashes, the lot stops with
// code 6 and a sentence, and the same command ends it.
func TestModuleCrashesInEachPhase(t *testing.T) {
	t.Parallel()
	const devices = 60
	trace := regexp.MustCompile(`(?m)^goroutine |^SIGSEGV|^PC=|runtime\.`)
	for name, in := range map[string]uint32{"C_Initialize": 0, "C_Login": 18, "C_GenerateKey": 58, "C_GenerateKeyPair": 59, "C_WrapKey": 60, "C_Sign": 43, "C_Finalize": 1} {
		s := newBadStation(newFactory(t, devices, sandbox.Config{}))
		auditKey := s.withAuditKey()
		s.set("CRASH_IN", in+1)
		args := s.lot("--keys", "hsm")
		code, out := s.do(args, auditKey)
		if code != exitHSM || !strings.Contains(out, "crashed (SIGSEGV)") || !strings.Contains(out, "hint: ") || trace.MatchString(out) {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
		if code, out := s.do(args, auditKey); code != 0 {
			t.Errorf("%s, once more: exit %d: %s", name, code, out)
		}
		s.checkLot(devices)
	}
}

// TestTwoTokensOneFails: a lot's keys come from two tokens, one of which goes
// away in the middle: the lot ends complete.
func TestTwoTokensOneFails(t *testing.T) {
	t.Parallel()
	const devices = 150
	s := newBadStation(newFactory(t, devices, sandbox.Config{}))
	second := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "second", "--so-pin", "87654321", "--pin", "4321")
	second.Env = append(second.Environ(), s.env...)
	if out, err := second.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	both := s.uri + " " + strings.Replace(s.uri, "token=factory", "token=second", 1)
	s.set("LATENCY_US", 2000)
	args := s.args("--hsm", both, "--algorithm", "ecdsa-p256", "--format", "pack", "--keys", "hsm", "--workers", "32")
	cmd, log := s.start(args)
	s.waitForDevices(20)
	s.set("GONE_SLOT", 1)
	if code := s.ended(cmd); code != 0 || !strings.Contains(log.String(), "taken out") {
		t.Fatalf("exit %d: %s", code, log)
	}
	s.checkLot(devices)
	s.set("GONE_SLOT", 0)
	if code, out := s.do([]string{"hsm", "gc", "--hsm", both, "--ledger", s.ledger}); code != 0 || strings.Count(out, "nothing was left behind") != 2 {
		t.Errorf("gc: exit %d: %s", code, out)
	}
}

// TestSecretsStayHere: no child process has the PIN or the server token in its environment.
func TestSecretsStayHere(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 3, sandbox.Config{}))
	dump := s.path("dump")
	for _, tool := range []string{"debugfs", "e2fsck"} { // wrappers that note what they were given
		real, err := exec.LookPath(tool)
		if err != nil {
			real = "/sbin/" + tool
		}
		if err := os.MkdirAll(s.path("bin"), 0o700); err != nil {
			t.Fatal(err)
		}
		script := "#!/bin/sh\nenv >>'" + dump + "'\nexec " + real + " \"$@\"\n"
		if err := os.WriteFile(s.path("bin", tool), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	bare := regexp.MustCompile(`&pin-source=.*`).ReplaceAllString(s.uri, "")
	code, out := s.do(s.args("--hsm", bare, "--algorithm", "ecdsa-p256", "--keys", "hsm"), "KEYMILL_HSM_PIN=4321", "KEYMILL_WEBHOOK_SECRET=secret-of-the-hook",
		"PATH="+s.path("bin")+":/usr/sbin:/usr/bin:/sbin:/bin")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	given, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	text := string(given)
	if !strings.Contains(text, "PATH=") {
		t.Fatal("no tool was called, so that this tests nothing")
	}
	for _, secret := range []string{"4321", "secret-of-the-hook", "KEYMILL_HSM_PIN"} {
		if strings.Contains(text, secret) {
			t.Errorf("a child's environment has %s", secret)
		}
	}
}
