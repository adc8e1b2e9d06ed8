//go:build cgo

package hsm

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const exitOfCrash = 6

// crashes runs verb in a child with a module that is about to crash, and
// returns the child's exit code and what it said.
func crashes(t *testing.T, bad *badToken, key, verb string) (int, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "KEYMILL_TEST_VERB="+verb, "KEYMILL_TEST_URI="+bad.uri, "KEYMILL_TEST_KEY="+key, "KEYMILL_TEST_JOURNAL="+bad.dir+"/journal")
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}

// TestCrashChild is what crashes starts.
func TestCrashChild(t *testing.T) {
	verb := os.Getenv("KEYMILL_TEST_VERB")
	if verb == "" {
		t.Skip("started by other tests only")
	}
	GuardCrashes(exitOfCrash)
	uri := os.Getenv("KEYMILL_TEST_URI")
	cfg := Config{URI: uri, Journal: openJournal(t, os.Getenv("KEYMILL_TEST_JOURNAL"))}
	if verb == "our own fault" {
		if _, err := List(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		var none *badToken
		go func() { none.dir = "" }()
		select {}
	}
	bad := &badToken{trialToken: trialToken{uri: uri}, t: t}
	if err := opened(t, bad, os.Getenv("KEYMILL_TEST_KEY"))[verb](cfg); err != nil {
		t.Fatal(err)
	}
}

// A module that crashes, wherever it does, ends the program with one sentence
// and code 6.
func TestModuleCrashes(t *testing.T) {
	bad, key := badWithKey(t)
	numbers := map[string]uint{"C_Initialize": 0, "C_Finalize": 1, "C_GetSlotList": 4, "C_GetTokenInfo": 6, "C_OpenSession": 12, "C_CloseSession": 13,
		"C_Login": 18, "C_DestroyObject": 22, "C_GetAttributeValue": 24, "C_FindObjectsInit": 26, "C_Sign": 43, "C_GenerateKey": 58,
		"C_GenerateKeyPair": 59, "C_WrapKey": 60, "C_GenerateRandom": 64}
	for verb, in := range map[string][]string{
		"run hsm": {"C_Initialize", "C_Finalize", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_CloseSession", "C_Login",
			"C_DestroyObject", "C_GetAttributeValue", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_GenerateRandom"},
		"run hsm-entropy":    {"C_GenerateRandom"},
		"run token":          {"C_Sign"},
		"audit key":          {"C_FindObjectsInit", "C_Sign"},
		"hsm list --objects": {"C_FindObjectsInit"},
		"hsm gc":             {"C_FindObjectsInit"},
	} {
		for _, function := range in {
			t.Run(verb+"/"+function, func(t *testing.T) {
				bad.set(crashHow, 0)
				bad.set(crashIn, numbers[function]+1)
				code, out := crashes(t, bad, key, verb)
				checkCrash(t, code, out, "crashed (SIGSEGV)")
			})
		}
	}
	for how, says := range []string{"crashed (SIGSEGV)", "gave up (SIGABRT)", "ended the program", "crashed (SIGSEGV)", "crashed (SIGSEGV)"} {
		bad.set(crashHow, uint(how))
		bad.set(crashIn, numbers["C_WrapKey"]+1)
		code, out := crashes(t, bad, key, "run hsm")
		checkCrash(t, code, out, says)
	}
	bad.set(crashIn, 0)
	code, out := crashes(t, bad, key, "our own fault")
	if code == exitOfCrash || !strings.Contains(out, "nil pointer dereference") || strings.Contains(out, "PKCS#11") {
		t.Errorf("a fault of our own: %d %s", code, out)
	}
}

func checkCrash(t *testing.T, code int, out, says string) {
	t.Helper()
	if code != exitOfCrash || !strings.Contains(out, says) || !strings.Contains(out, "forward.so") || !strings.Contains(out, "hint:") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, word := range []string{"goroutine", "SIGSEGV: segmentation", "runtime.", "PC="} {
		if strings.Contains(out, word) {
			t.Errorf("a trace: %s", out)
		}
	}
}
