package imaging

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// ext4Disk mounts an ext4 on a loop device, and returns where, and what unmounts it
// and searches the whole device for the marks of handKey.
func ext4Disk(t *testing.T, mb int64) (dir string, keyLeft func() bool) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	mustRun(t, "truncate", "-s", "0", file)
	if err := os.Truncate(file, mb<<20); err != nil {
		t.Fatal(err)
	}
	mustRun(t, program(t, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", file)
	loop := loopDevice(t, file)
	dir = t.TempDir()
	if out, err := exec.Command("mount", loop, dir).CombinedOutput(); err != nil {
		missing(t, "cannot mount: %s", out)
	}
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			mustRun(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	return dir, func() bool {
		unmount()
		f, err := os.Open(loop)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
		var tail []byte
		buf := make([]byte, 1<<20)
		for {
			n, err := f.Read(buf)
			if bytes.Contains(append(tail, buf[:n]...), []byte("PRIVATE-")) {
				return true
			}
			tail = bytes.Clone(buf[max(0, n-16):n])
			if errors.Is(err, io.EOF) {
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// writeProducts writes the images of three devices.
func writeProducts(t *testing.T, name, dir string, g *handGolden, tmpl *Template) (w Writer, paths []string) {
	t.Helper()
	format := mustFormat(t, name)
	w, err := format.Open(t.Context(), g, dir)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		dst := filepath.Join(dir, format.FileName(string(rune('a'+n)), g.Path()))
		if _, err := w.Write(t.Context(), handOverlay(t, tmpl, n), dst); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, dst)
	}
	return w, paths
}

// After the destruction of images of any format, no byte of a key lies on the disk, in
// free blocks neither.
func TestDestroyedImagesLeaveNothing(t *testing.T) {
	for _, format := range Formats() {
		for _, known := range []bool{true, false} { // the template
			t.Run(format.Name+map[bool]string{true: "/template", false: "/none"}[known], func(t *testing.T) {
				g, _ := smallGolden(t, t.TempDir())
				tmpl := midTemplate(g)
				dir, keyLeft := ext4Disk(t, 64)
				w, paths := writeProducts(t, format.Name, dir, g, tmpl)
				// One is written anew with another key, as after a rekey.
				if _, err := w.Write(t.Context(), handOverlay(t, tmpl, 7), paths[0]); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				given := tmpl
				if !known {
					given = nil
				}
				for _, path := range paths {
					d, err := format.Destroy(t.Context(), path, given)
					if err != nil || !d.Found || !d.Overwritten || d.Caveat != "" {
						t.Fatalf("%+v, %v", d, err)
					}
					for _, file := range ProductFiles(path) {
						if _, err := os.Lstat(file); err == nil {
							t.Errorf("%s is still there", file)
						}
					}
				}
				if d, err := format.Destroy(t.Context(), paths[0], given); err != nil || d.Found || d.Overwritten {
					t.Errorf("destroyed twice: %+v, %v", d, err)
				}
				if keyLeft() {
					t.Error("a key can be read from the disk")
				}
			})
		}
	}
}

// The search finds a key that was only unlinked: without that, the test above proves
// nothing.
func TestUnlinkingLeavesTheKey(t *testing.T) {
	g, _ := smallGolden(t, t.TempDir())
	dir, keyLeft := ext4Disk(t, 64)
	_, paths := writeProducts(t, "raw", dir, g, midTemplate(g))
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if !keyLeft() {
		t.Error("the search finds nothing")
	}
}

// What a killed process left is found, overwritten and removed; what is being written
// stays.
func TestLeftoversLeaveNothing(t *testing.T) {
	g, _ := smallGolden(t, t.TempDir())
	tmpl := midTemplate(g)
	dir, keyLeft := ext4Disk(t, 64)
	_, paths := writeProducts(t, "bmap", dir, g, tmpl)
	var held *os.File
	for i, path := range paths[:2] {
		if err := os.Rename(path, tempName(path)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		var err error
		if held, err = os.OpenFile(tempName(path), os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		if err := flock(held); err != nil {
			t.Fatal(err)
		}
	}
	pack := filepath.Join(dir, "lot.pack")
	p, err := CreatePack(pack, g.sum, g.size)
	if err != nil {
		t.Fatal(err)
	}
	ref := mustAppend(t, p, tmpl, 5)
	if err := errors.Join(p.Close(), os.Link(pack, filepath.Join(dir, packTemp+"1")), os.WriteFile(filepath.Join(dir, packTemp+"2"), handKey(1), 0o600)); err != nil {
		t.Fatal(err)
	}
	found, err := Leftovers(dir)
	if err != nil {
		t.Fatal(err)
	}
	// One image, the maps of two whose images are gone, two names of packs.
	if n, err := RemoveLeftovers(dir); err != nil || n != 5 || len(found) != n {
		t.Fatalf("%d removed, %v; %+v", n, err, found)
	}
	p = reopen(t, nil, pack)
	wantEntry(t, p.Read, ref, 5)
	if err := errors.Join(p.Destroy(ref), p.Close()); err != nil {
		t.Fatal(err)
	}
	held.Close()
	for _, path := range []string{tempName(paths[1]), paths[2]} {
		if d, err := DestroyFile(path); err != nil || !d.Found || !d.Overwritten {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if keyLeft() {
		t.Error("a key can be read from the disk")
	}
}

// Reflinks of golden lose their own blocks only; what is shared isn't copied.
func TestDestroyReflink(t *testing.T) {
	dir := xfsDisk(t)
	g, _ := smallGolden(t, dir)
	tmpl := midTemplate(g)
	w, paths := writeProducts(t, "raw", dir, g, tmpl)
	defer w.Close()
	other := filepath.Join(dir, "copy")
	if err := os.Link(paths[1], other); err != nil {
		t.Fatal(err)
	}
	before, err := FreeBytes(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if d, err := mustFormat(t, "raw").Destroy(t.Context(), path, nil); err != nil || !d.Overwritten {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if bytes.Contains(mustRead(t, other), []byte("PRIVATE-")) {
		t.Error("another name of the file still shows the key")
	}
	if after, err := FreeBytes(dir); err != nil || after < before {
		t.Errorf("%d bytes free, then %d: what was shared was copied", before, after)
	}
}

func TestDestroyRefuses(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	if err := errors.Join(os.WriteFile(kept, []byte("kept"), 0o600), os.Symlink(kept, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "."} {
		if d, err := DestroyFile(filepath.Join(dir, name)); err == nil || d.Overwritten {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if string(mustRead(t, kept)) != "kept" {
		t.Error("it followed a link")
	}
}
