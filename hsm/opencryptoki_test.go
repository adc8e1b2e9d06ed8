//go:build cgo

package hsm

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// newOpenCryptoki is opencryptoki's soft token, where TestOpenCryptoki has set it up.
func newOpenCryptoki(t testing.TB) trialToken {
	t.Helper()
	uri := os.Getenv("KEYMILL_TEST_OPENCRYPTOKI")
	if uri == "" {
		t.Skip("run by TestOpenCryptoki, in namespaces of its own")
	}
	return trialToken{uri: uri, dir: t.TempDir(), env: map[string]string{}}
}

// TestOpenCryptoki runs the conformance suite and the signer's test over
// opencryptoki's soft token. Its daemon needs root.
func TestOpenCryptoki(t *testing.T) {
	if os.Getenv("KEYMILL_TEST_OPENCRYPTOKI") != "" {
		t.Skip("this is its child")
	}
	if os.Geteuid() != 0 {
		t.Skip("opencryptoki's daemon needs root")
	}
	needTool(t, "pkcsslotd", "opencryptoki")
	needTool(t, "pkcs11-tool", "opensc")
	work, err := os.MkdirTemp("", "keymill-ock-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(work)
	child := exec.Command("unshare", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "testdata/opencryptoki.sh", work,
		"sh", "-c", `KEYMILL_TEST_OPENCRYPTOKI=$URI exec "$0" -test.v -test.run '^(TestConformance|TestSigner)$/^opencryptoki'`, os.Args[0])
	out, err := child.CombinedOutput()
	if err != nil && strings.Contains(string(out), "Operation not permitted") && !strings.Contains(string(out), "=== RUN") {
		t.Skipf("no namespaces here: %s", out)
	}
	if err != nil || strings.Count(string(out), "--- PASS") < 8 || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
