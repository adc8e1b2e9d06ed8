package reports

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stranger runs the small verifier of examples/audit-export, which is written in
// another language from FORMAT.md alone, and returns what it says of each bundle.
func stranger(t testing.TB, key crypto.Signer, bundles ...string) []string {
	t.Helper()
	python := "/usr/bin/python3" // Debian's, which has Debian's packages
	if exec.CommandContext(t.Context(), python, "-c", "import cryptography").Run() != nil {
		python = needTool(t, "python3", "python3")
	}
	if exec.CommandContext(t.Context(), python, "-c", "import cryptography").Run() != nil {
		lacks(t, "python3-cryptography")
	}
	pem, err := PublicPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "station.pem")
	if err := os.WriteFile(name, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), python, append([]string{"../examples/audit-export/verify.py", "--key", name}, bundles...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 0 && code != 8 {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(bundles) {
		t.Fatalf("%d bundles, %d answers", len(bundles), len(lines))
	}
	return lines
}

// TestTheStrangersVerifierAccepts what is honest, for each kind of key.
func TestTheStrangersVerifierAccepts(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ed25519": stationKey("a"), "rsa": rsaKey, "p256": p256, "p384": p384} {
		t.Run(name, func(t *testing.T) {
			b, dir := honest(t, key)
			b.fill("lot-2", 150) // open, and with every kind of fate
			open, _ := exportLot(t, b, "lot-2", Options{Signer: key, Station: "line-3", Journal: b})
			wantValid(t, verify(t, open, trusted(key)))
			for _, line := range stranger(t, key, dir, open) {
				if !strings.Contains(line, ": valid") {
					t.Error(line)
				}
			}
			if line := stranger(t, stationKey("b"), dir)[0]; !strings.Contains(line, "NOT valid") {
				t.Error(line)
			}
		})
	}
}

// TestTheStrangersVerifierFindsForgeries that keymill finds, by both algorithms'
// keys; but for the pages, which it does not make again.
func TestTheStrangersVerifierFindsForgeries(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ed25519": stationKey("a"), "p256": p256} {
		t.Run(name, func(t *testing.T) {
			_, dir := honest(t, key, "csv")
			var bundles, what []string
			for _, one := range forgeries() {
				for n := range one.variants {
					if one.pages || testing.Short() && n > 0 {
						break
					}
					forged := copyBundle(t, dir)
					f := openForge(t, forged, key)
					one.does(f, n)
					f.seal()
					bundles, what = append(bundles, forged), append(what, fmt.Sprintf("%s, variant %d", one.name, n))
				}
			}
			if len(bundles) < 100 && !testing.Short() {
				t.Errorf("only %d forgeries", len(bundles))
			}
			for i, line := range stranger(t, key, bundles...) {
				if !strings.Contains(line, "NOT valid") || strings.Contains(line, "FORMAT.md") || strings.Contains(line, "schema") {
					t.Errorf("%s: %s", what[i], line)
				}
			}
			t.Logf("%d forgeries", len(bundles))
		})
	}
}
