package imaging

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckOutput(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"golden.img", "lot.pack", "old.img"} {
		if err := os.WriteFile(at(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Symlink(at("nothing"), at("dangling")), os.Symlink(at("old.img"), at("link")), unix.Mkfifo(at("pipe"), 0o600),
		os.Link(at("lot.pack"), at("pack-by-another-name")), os.MkdirAll(at("cache/sub"), 0o700), os.Symlink(at("cache"), at("way")))
	if err != nil {
		t.Fatal(err)
	}
	keep := []string{at("golden.img"), at("lot.pack"), at("cache"), at("no such thing"), ""}
	for path, says := range map[string]string{
		at("new.img"): "", at("old.img"): "",
		at("golden.img"): "in use by keymill", at("./lot.pack"): "in use by keymill", at("pack-by-another-name"): "in use by keymill",
		at("link"): "symbolic link", at("dangling"): "symbolic link", at("pipe"): "not a file", "/dev/null": "not a file",
		"/dev/stdout": "symbolic link", "/dev/new": "no place for a file", "/proc/x": "no place for a file", dir: "a folder",
		at("cache/x.img"): "own folder", at("cache/sub/x.img"): "own folder", at("way/x.img"): "own folder",
		at("missing/x.img"): "no such file",
	} {
		err := CheckOutput(path, keep...)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, not %q", path, err, says)
		}
	}
	if err := CheckOutput(oldMedium(t, MediumDisk, 1<<20), keep...); err == nil || !strings.Contains(err.Error(), "block device") {
		t.Error(err)
	}
}
