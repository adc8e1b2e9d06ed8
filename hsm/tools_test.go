package hsm

import (
	"os"
	"os/exec"
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
