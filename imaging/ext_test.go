package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// makeExt makes a file system with a folder of many files, a large sparse
// file, and links.
func makeExt(t testing.TB, size string, args ...string) string {
	t.Helper()
	need(t, e2fsprogs, "mke2fs", "debugfs")
	dir := t.TempDir()
	tree, name := filepath.Join(dir, "tree"), filepath.Join(dir, "fs")
	many := filepath.Join(tree, "many")
	if err := os.MkdirAll(many, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("a-rather-long-name-%03d", i)), fmt.Appendln(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sparse, err := os.Create(filepath.Join(tree, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	for i := range int64(20) {
		if _, err := sparse.WriteAt(fmt.Appendf(nil, "piece %d", i), i*70_000); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("many/../sparse", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", append(append([]string{"-q", "-F", "-d", tree}, args...), name, size)...)
	return name
}

// TestReadingAgreesWithDebugfs reads each kind of block map and directory.
func TestReadingAgreesWithDebugfs(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 1024", "-t ext2 -b 1024", "-t ext3 -b 4096", "-t ext4 -O inline_data -I 256",
		"-t ext4 -O meta_bg,^resize_inode -b 1024", "-t ext4 -O bigalloc",
		// Many groups, so that descriptors lie in several of them.
		"-t ext4 -O meta_bg,^resize_inode,^flex_bg -b 1024 -g 512 -N 3000",
		"-t ext4 -O meta_bg,^resize_inode,^flex_bg,^sparse_super -b 1024 -g 512 -N 3000",
		"-t ext4 -O meta_bg,^resize_inode,^flex_bg,sparse_super2 -b 1024 -g 512 -N 3000",
		"-t ext2 -O meta_bg,^resize_inode -b 1024 -g 512 -N 3000"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			name := makeExt(t, "24M", strings.Fields(args)...)
			tool(t, "e2fsck", "-fyD", name) // hashes directories
			file, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			fs, err := openExt(file, 0, 24<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"/sparse", "/many/a-rather-long-name-000", "/many/a-rather-long-name-299"} {
				n, err := fs.find(path, "")
				if err != nil {
					t.Fatal(path, err)
				}
				got, err := fs.content(n, 1<<24)
				if err != nil {
					t.Fatal(path, err)
				}
				want := filepath.Join(t.TempDir(), "want")
				tool(t, "debugfs", "-R", "dump "+path+" "+want, name)
				if b, err := os.ReadFile(want); err != nil || !bytes.Equal(bytes.TrimRight(b, "\x00"), bytes.TrimRight(got, "\x00")) {
					t.Errorf("%s: %d bytes, debugfs reads %d; %v", path, len(got), len(b), err)
				}
			}
			many, err := fs.find("/many", "")
			if err != nil {
				t.Fatal(err)
			}
			if list, err := fs.entries(many); err != nil || len(list) != 302 {
				t.Errorf("%d entries, %v", len(list), err)
			}
			if _, err := fs.find("/many/nobody", ""); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

func TestImpossibleSuperblocks(t *testing.T) {
	b, err := os.ReadFile(makeExt(t, "24M", "-t", "ext4", "-O", "64bit"))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		at    int
		bytes string
	}{
		"magic":                {0x38, "\x00"},
		"block size":           {0x18, "\x07"},
		"cluster size":         {0x1C, "\xff"},
		"unknown feature":      {0x60, "\xff\xff\xff\xff"},
		"compression":          {0x60, "\xc3"},
		"inode size 0":         {0x58, "\x00\x00"},
		"inode size 100":       {0x58, "\x64\x00"},
		"descriptor size":      {0xFE, "\x03\x00"},
		"no blocks":            {0x04, "\x00\x00\x00\x00"},
		"too many blocks":      {0x150, "\x01"},
		"no blocks in a group": {0x20, "\x00\x00\x00\x00"},
		"no inodes in a group": {0x28, "\x00\x00\x00\x00"},
		"first block":          {0x14, "\x09"},
	} {
		spoilt := bytes.Clone(b)
		copy(spoilt[superblockOffset+test.at:], test.bytes)
		if _, err := openExt(bytes.NewReader(spoilt), 0, int64(len(b))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := openExt(bytes.NewReader(b), 0, int64(len(b))/2); err == nil {
		t.Error("a partition half as large was accepted")
	}
}

// FuzzExt requires that no bytes make the reader panic, run on, or read
// outside the partition.
func FuzzExt(f *testing.F) {
	for _, args := range []string{"-b 1024 -O ^resize_inode,^has_journal -N 16", "-t ext2 -b 1024 -N 16", "-t ext4 -b 1024 -O inline_data,^has_journal,^resize_inode -N 16 -I 256"} {
		if _, err := lookTool("mke2fs", e2fsprogs); err != nil {
			continue
		}
		name := filepath.Join(f.TempDir(), "fs")
		tool(f, "mke2fs", append(append([]string{"-q", "-F"}, strings.Fields(args)...), name, "64")...)
		tool(f, "debugfs", "-w", "-R", "symlink l lost+found", name)
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs, err := openExt(&bounded{t, b}, 0, int64(len(b)))
		if err != nil {
			return
		}
		for _, path := range []string{"/lost+found/x", "/l/x", "/mender/mender-agent.pem"} {
			_, inodes, _, err := fs.walk(path, dataMount)
			if err != nil {
				continue
			}
			for _, n := range inodes {
				_, _ = fs.entries(n)
				_, _ = fs.content(n, 1<<20)
			}
		}
	})
}
