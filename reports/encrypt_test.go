package reports

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"keymill/pipeline"
)

func TestEncryptedBundleVerifiesAfterDecryption(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 30)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key))
	auditor, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.tar.age")
	if err := Encrypt(t.Context(), dir, file, []string{auditor.Recipient().String()}); err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if bytes.Contains(sealed, []byte("lot-1")) {
		t.Error("the lot's name is readable")
	}
	plain, err := age.Decrypt(bytes.NewReader(sealed), auditor)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	untar(t, plain, out)
	wantValid(t, verify(t, filepath.Join(out, "report"), trusted(key)))

	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := age.Decrypt(bytes.NewReader(sealed), stranger); err == nil {
		t.Error("a stranger can read it")
	}
	if err := Encrypt(t.Context(), dir, file, []string{auditor.Recipient().String()}); err == nil {
		t.Error("an existing file was overwritten")
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func untar(t *testing.T, r io.Reader, dir string) {
	t.Helper()
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if err := (&bundleDir{dir: dir}).write(h.Name, data); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecipientsThatAreNone(t *testing.T) {
	for _, r := range [][]string{nil, {"age1nonsense"}, {"ssh-rsa AAAA"}} {
		err := Encrypt(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "x"), r)
		if err == nil || pipeline.Hint(err) == "" || strings.Contains(err.Error(), "export") {
			t.Errorf("%q: %v", r, err)
		}
	}
}
