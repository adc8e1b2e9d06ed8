package hsm

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// needTool skips a test whose tool isn't installed; with CI set it fails.
func needTool(t testing.TB, tool, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		missing(t, tool, debianPackage)
	}
	return path
}

// needFile does the same for a file, such as a PKCS#11 module.
func needFile(t testing.TB, debianPackage string, candidates ...string) string {
	t.Helper()
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	missing(t, candidates[0], debianPackage)
	return ""
}

func missing(t testing.TB, what, debianPackage string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing: apt-get install %s", what, debianPackage)
	}
	t.Skipf("%s is missing: apt-get install %s", what, debianPackage)
}

func wantRefused(t testing.TB, err error, inHint string) {
	t.Helper()
	if _, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(Hint(err), inHint) {
		t.Errorf("got %v (hint %q), want a refusal that names %q", err, Hint(err), inHint)
	}
}

func wantGone(t testing.TB, err error, inHint string) {
	t.Helper()
	if _, ok := errors.AsType[*GoneError](err); !ok || Hint(err) == "" || !strings.Contains(Hint(err), inHint) {
		t.Errorf("got %v (hint %q), want a *GoneError that names %q", err, Hint(err), inHint)
	}
}
