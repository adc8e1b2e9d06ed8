package reports

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStockToolsCanCheckABundle runs the commands that README.txt gives to
// those who have no keymill, taken from the file itself.
func TestStockToolsCanCheckABundle(t *testing.T) {
	for _, tool := range [][2]string{{"openssl", "openssl"}, {"jq", "jq"}, {"sha256sum", "coreutils"}, {"bash", "bash"}} {
		needTool(t, tool[0], tool[1])
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ed25519": stationKey("a"), "rsa": rsaKey, "ecdsa": ecKey} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			l.fill("lot-1", 60)
			dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "csv"))
			pem, err := PublicPEM(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "STATION.pem"), pem, 0o600); err != nil {
				t.Fatal(err)
			}
			out := runReadme(t, dir)
			for _, want := range []string{"devices.jsonl: OK", "log/line-3/leaves.jsonl: OK", "HASHES AGREE", "Verified", `"released": 57`} {
				if !strings.Contains(out, want) {
					t.Errorf("the commands do not print %q:\n%s", want, out)
				}
			}

			path := filepath.Join(dir, fileStatement)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := strings.Replace(string(data), `"payload":"eyJ`, `"payload":"eyK`, 1)
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			if out := runReadme(t, dir); strings.Contains(out, "Verified") {
				t.Errorf("a changed statement verifies:\n%s", out)
			}
		})
	}
}

// runReadme runs the indented commands of README.txt and returns what they
// print. The images are not there, so their check is left out.
func runReadme(t *testing.T, dir string) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(dir, fileReadme))
	if err != nil {
		t.Fatal(err)
	}
	_, stock, ok := strings.Cut(string(readme), "2. With stock tools")
	if !ok {
		t.Fatal("README.txt has no second way")
	}
	var script strings.Builder
	for line := range strings.Lines(stock) {
		if command, ok := strings.CutPrefix(line, "     "); ok && !strings.Contains(line, "images.sha256") {
			script.WriteString(command)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput() // some commands fail where something is wrong
	return string(out)
}

func TestReadmeNamesWhatIsThere(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 5)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key))
	readme, err := os.ReadFile(filepath.Join(dir, fileReadme))
	if err != nil {
		t.Fatal(err)
	}
	id, _ := KeyID(key.Public())
	for _, want := range []string{id, "report.pdf", "devices.xlsx", "Audit bundle of lot lot-1"} {
		if !strings.Contains(string(readme), want) {
			t.Errorf("README.txt does not name %q", want)
		}
	}
}
