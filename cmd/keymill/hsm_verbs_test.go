package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keymill/hsm"
	"keymill/pipeline/mender/sandbox"
)

// TestGCLeavesARunAlone: what a run makes at this moment looks like what a
// crash left, so that nobody clears up beside it. The other verbs may be used.
func TestGCLeavesARunAlone(t *testing.T) {
	t.Parallel()
	const devices = 100
	s := newBadStation(newFactory(t, devices, sandbox.Config{}))
	s.set("TOKEN_ONLY", 1) // its temporary keys lie in the token
	s.set("LATENCY_US", 10_000)
	cmd, log := s.start(s.lot("--keys", "hsm"))
	s.waitForDevices(5)
	at := []string{"--hsm", s.uri, "--ledger", s.ledger}
	for _, destroy := range []string{"--destroy", "--destroy=false"} {
		code, out := s.do(append([]string{"hsm", "gc", destroy}, at...))
		if code != exitUsage || !strings.Contains(out, "at work") || !strings.Contains(out, "hint: ") {
			t.Errorf("gc beside a run: exit %d, want %d and why: %s", code, exitUsage, out)
		}
	}
	if code, out := s.do(append([]string{"hsm", "list", "--objects"}, at...)); code != 0 {
		t.Errorf("list beside a run: exit %d: %s", code, out)
	}
	if countDevices(s.box) == devices {
		t.Error("the lot was done before gc came")
	}
	if code := s.ended(cmd); code != 0 {
		t.Fatalf("exit %d: %s", code, log)
	}
	s.checkLot(devices)
	s.checkTokenEmpty()
}

// TestHSMTestJSON holds the report against its type, which is the contract.
func TestHSMTestJSON(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 1, sandbox.Config{}))
	cmd, log := s.process("hsm", "test", "--json", "--hsm", s.uri, "--ledger", s.ledger)
	cmd.Env = append(cmd.Env, s.env...)
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, log)
	}
	var report hsm.TestReport
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if report.Origin.TokenLabel != "factory" || report.Origin.Module == "" || len(report.Checks) < 10 {
		t.Errorf("%+v", report)
	}
	verdicts := map[string]bool{}
	for _, u := range report.Usable {
		verdicts[string(u.Mode)+" "+string(u.Algorithm)] = u.OK
		if u.How == "" {
			t.Errorf("%+v says nothing", u)
		}
	}
	for what, want := range map[string]bool{"hsm ecdsa-p256": true, "hsm ed25519": false, "hsm-entropy ed25519": true, "token rsa-3072": true} {
		if got, told := verdicts[what]; !told || got != want {
			t.Errorf("%s: %v, told %v", what, got, told)
		}
	}
	s.checkTokenEmpty()
}

// TestWithoutCgo: a build without cgo does what needs no module, and says for
// the rest what is missing; it never falls to software.
func TestWithoutCgo(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 2, sandbox.Config{}))
	exe := s.path("keymill-nocgo")
	build := exec.Command("go", "build", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := []string{"--hsm", s.uri, "--ledger", s.path("other.db")}
	for _, args := range [][]string{
		append([]string{"hsm", "list"}, at...), append([]string{"hsm", "list", "--objects"}, at...), append([]string{"hsm", "test"}, at...),
		append([]string{"hsm", "bench"}, at...), append([]string{"hsm", "gc"}, at...),
		s.lot("--keys", "hsm"), s.lot("--keys", "hsm-entropy"), s.lot("--keys", "token"),
	} {
		cmd := exec.Command(exe, args...)
		cmd.Env = append(os.Environ(), s.env...)
		out, err := cmd.CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != exitHSM || !strings.Contains(string(out), "without cgo") || !strings.Contains(string(out), "hint: build it with CGO_ENABLED=1") {
			t.Errorf("%v: %v, want exit code %d and what is missing: %s", args, err, exitHSM, out)
		}
	}
	if _, err := os.Stat(s.ledger); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a ledger was made for a refused lot")
	}
	if out, err := exec.Command(exe, s.args("--format", "pack")...).CombinedOutput(); err != nil {
		t.Fatalf("keys in software: %v: %s", err, out)
	}
	s.checkLot(2)
}

// TestTokenSettings: what can't name a token, and a PIN that others can see, is
// a mistake in the configuration; what editors leave around a PIN is not.
func TestTokenSettings(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 1, sandbox.Config{}))
	module := "module-path=" + modulePath.FindStringSubmatch(s.uri)[1]
	open := "pkcs11:token=factory?" + module + "&pin-value=4321"
	if err := os.WriteFile(s.path("open.yaml"), []byte("keys: {hsm: \""+open+"\"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	credentials := s.path("credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(credentials, "hsm-pin"), []byte("4321\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := s.path("text.so")
	if err := os.WriteFile(text, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := []string{"hsm", "list", "--objects", "--ledger", s.ledger}
	bare := "pkcs11:token=factory?" + module
	for name, c := range map[string]struct {
		args    []string
		setting string
		code    int
		says    string
	}{
		"percent-encoded":       {args: append(list, "--hsm", strings.Replace(s.uri, "token=factory", "token=f%61ctory", 1)), says: "token=factory"},
		"badly encoded":         {args: append(list, "--hsm", "pkcs11:token=a%2"), code: exitUsage, says: "percent-encoding"},
		"a blank":               {args: append(list, "--hsm", "pkcs11:token=a b"), code: exitUsage, says: "%20"},
		"no URI":                {args: append(list, "--hsm", "factory"), code: exitUsage, says: "pkcs11:"},
		"PIN in a flag":         {args: append(list, "--hsm", open), code: exitUsage, says: "pin-source"},
		"PIN in an open file":   {args: append(list, "--config", s.path("open.yaml")), code: exitUsage, says: "chmod 600"},
		"PIN in the URI":        {args: list, setting: "KEYMILL_KEYS_HSM=" + open},
		"PIN with a line's end": {args: append(list, "--hsm", bare), setting: "KEYMILL_HSM_PIN=4321\r"},
		"credential":            {args: append(list, "--hsm", bare), setting: "CREDENTIALS_DIRECTORY=" + credentials},
		"no PIN":                {args: append(list, "--hsm", bare), code: exitHSM, says: "hint: "},
		"no PIN file":           {args: append(list, "--hsm", bare+"&pin-source=/nowhere"), code: exitHSM, says: "hint: write the PIN"},
		"negative":              {args: append(list, "--hsm", s.uri), setting: "KEYMILL_KEYS_SESSIONS=-1", code: exitUsage, says: "keys.sessions"},
		"a text as module":      {args: append(list, "--hsm", "pkcs11:token=factory?module-path="+text), code: exitHSM, says: "hint: check that the file is the vendor's module"},
		"a library as module":   {args: append(list, "--hsm", "pkcs11:token=factory?module-path=/lib/x86_64-linux-gnu/libc.so.6"), code: exitHSM, says: "hint: "},
	} {
		code, out := s.do(c.args, cmp.Or(c.setting, "UNUSED="))
		if code != c.code || !strings.Contains(out, c.says) || strings.Contains(out, "4321") {
			t.Errorf("%s: exit %d, want %d and %q, and no PIN: %s", name, code, c.code, c.says, out)
		}
	}
	if _, err := os.Stat(s.path("keymill-hsm-journal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking at a token leaves a journal: %v", err)
	}
	if code, out := s.do([]string{"hsm", "bench", "--sessions", "0", "--hsm", s.uri, "--ledger", s.ledger}); code != exitUsage || !strings.Contains(out, "1 or more") {
		t.Errorf("a bench without sessions: exit %d, want %d: %s", code, exitUsage, out)
	}
}
