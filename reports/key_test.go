package reports

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// needTool skips the test without a Debian package's tool; under CI it fails.
func needTool(t testing.TB, tool, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		lacks(t, pkg)
	}
	return path
}

// lacks ends a test whose Debian package is missing.
func lacks(t testing.TB, pkg string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("the Debian package %s is missing: install it", pkg)
	}
	t.Skipf("the Debian package %s is missing", pkg)
}

func TestSigningKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "station.key")
	first, created, err := LoadOrCreateKey(path)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	second, created, err := LoadOrCreateKey(path)
	if err != nil || created {
		t.Fatalf("created again: %v, %v", created, err)
	}
	a, _ := KeyID(first.Public())
	b, _ := KeyID(second.Public())
	if a != b {
		t.Error("the key changed")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOpensslReadsTheKey(t *testing.T) {
	openssl := needTool(t, "openssl", "openssl")
	path := filepath.Join(t.TempDir(), "station.key")
	key, _, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(openssl, "pkey", "-in", path, "-pubout").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := PublicPEM(key.Public()); string(got) != string(want) {
		t.Errorf("openssl prints\n%s, we print\n%s", got, want)
	}
}

func TestSigningKeysThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		data string
		mode os.FileMode
		says string
	}{
		"open to others": {"x", 0o644, "can be read by others"},
		"no PEM":         {"x", 0o600, "PKCS#8"},
		"SEC 1":          {"-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n", 0o600, "PKCS#8"},
		"garbage":        {"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", 0o600, "cannot be parsed"},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, []byte(c.data), c.mode); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
