package reports

import (
	"os"
	"path/filepath"
	"testing"

	"keymill/imaging/crashfs"
)

// On a file system that knows no flags of rename, a bundle is published and replaced
// all the same; crashfs is one.
func TestPublishWithoutRenameFlags(t *testing.T) {
	root := t.TempDir()
	f, err := crashfs.Mount(root, true)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("needs FUSE: %v", err)
		}
		t.Skipf("needs FUSE: %v", err)
	}
	defer f.Unmount() //nolint:errcheck // the folder goes anyway
	dir := filepath.Join(root, "bundle")
	for _, content := range []string{"first", "second"} {
		temp := filepath.Join(root, "temp")
		if err := os.RemoveAll(temp); err != nil { // as whoever publishes does
			t.Fatal(err)
		}
		if err := os.Mkdir(temp, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(temp, "file"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := publish(temp, dir); err != nil {
			t.Fatalf("%s: %v", content, err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(root, "temp", "file")); err != nil || string(got) != "first" {
		t.Errorf("the earlier bundle: %q, %v", got, err)
	}
}
