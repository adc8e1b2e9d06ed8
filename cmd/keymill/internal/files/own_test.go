package files

import (
	"os"
	"path/filepath"
	"testing"

	"keymill/cmd/keymill/internal/fault"
)

func TestOwn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.pack")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode   os.FileMode
		secret bool
		ok     bool
	}{{0o600, true, true}, {0o640, true, false}, {0o640, false, true}, {0o620, false, false}, {0o602, false, false}} {
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		err := Own(path, tt.secret)
		if (err == nil) != tt.ok || err != nil && (fault.KindOf(err) != fault.Storage || fault.Hint(err) == "") {
			t.Errorf("mode %o, secret %v: %v", tt.mode, tt.secret, err)
		}
	}
	if err := Own(filepath.Join(dir, "none"), true); err != nil {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		if err := Own("/", false); err == nil {
			t.Error("root's folder counts as ours")
		}
	}
	if err := MakeDirs(filepath.Join(dir, "x", "y", "z"), dir); err != nil {
		t.Error(err)
	}
	if err := MakeDirs(filepath.Join(path, "below")); err == nil {
		t.Error("a folder was made below a file")
	}
}
