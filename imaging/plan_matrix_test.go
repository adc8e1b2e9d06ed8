package imaging

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mkfsMatrix has the file systems that people have: the defaults of mke2fs
// over the years, what Yocto and Debian make, and each feature that changes
// where content or checksums lie.
var mkfsMatrix = map[string]string{
	"defaults":         "-t ext4",
	"1k":               "-t ext4 -b 1024",
	"2k":               "-t ext4 -b 2048",
	"4k":               "-t ext4 -b 4096",
	"64k":              "-t ext4 -b 65536",
	"no checksums":     "-t ext4 -O ^metadata_csum",
	"uninit_bg":        "-t ext4 -O ^metadata_csum,uninit_bg",
	"32 bit":           "-t ext4 -O ^64bit",
	"32 bit no sums":   "-t ext4 -O ^64bit,^metadata_csum -b 4096",
	"csum_seed":        "-t ext4 -O metadata_csum_seed,orphan_file",
	"no journal":       "-t ext4 -O ^has_journal",
	"128-byte inodes":  "-t ext4 -I 128",
	"512-byte inodes":  "-t ext4 -I 512 -b 4096",
	"inline_data":      "-t ext4 -O inline_data",
	"inline_data 512":  "-t ext4 -O inline_data -I 512 -b 1024",
	"inline_data 1024": "-t ext4 -O inline_data -I 1024 -b 4096",
	"bigalloc":         "-t ext4 -O bigalloc -C 16384 -b 4096",
	"bigalloc 1k":      "-t ext4 -O bigalloc -C 8192 -b 1024",
	"meta_bg":          "-t ext4 -O meta_bg,^resize_inode -b 1024",
	"flex_bg off":      "-t ext4 -O ^flex_bg,^resize_inode",
	"no extents":       "-t ext4 -O ^extent,^64bit",
	"sparse_super2":    "-t ext4 -O sparse_super2,^resize_inode",
	"no sparse_super":  "-t ext4 -O ^sparse_super,^resize_inode",
	"ea_inode":         "-t ext4 -O ea_inode,large_dir",
	"quota":            "-t ext4 -O quota",
	"project":          "-t ext4 -O project,quota -I 256",
	"encrypt, verity":  "-t ext4 -O encrypt,verity",
	"casefold":         "-t ext4 -O casefold -E encoding=utf8",
	"stable inodes":    "-t ext4 -O stable_inodes -E packed_meta_blocks=1",
	"ext3":             "-t ext3",
	"ext3 4k":          "-t ext3 -b 4096 -I 128",
	"ext2":             "-t ext2",
	"ext2 rev 0":       "-t ext2 -r 0 -b 1024",
	"meta_bg, many":    "-t ext4 -O meta_bg,^resize_inode,^flex_bg -b 1024 -g 512 -N 3000",
	"small groups":     "-t ext4 -b 1024 -g 1024 -N 512",
}

// pemBytes are the lengths of PKCS#8 PEM files, by algorithm.
var pemBytes = map[string]int{
	"ed25519": 119, "ecdsa-p256": 241, "ecdsa-p384": 306, "rsa-2048": 1704, "rsa-3072": 2484, "rsa-4096": 3272,
}

func TestEveryFileSystem(t *testing.T) {
	for name, mkfs := range mkfsMatrix {
		for _, table := range []string{TableMBR, TableGPT} {
			t.Run(name+"/"+table, func(t *testing.T) {
				t.Parallel()
				testFileSystem(t, table, mkfs)
			})
		}
	}
}

// testFileSystem requires for each kind of key that e2fsck and debugfs accept
// the produced image. That it is byte-identical to one that debugfs made is
// what every template is checked for when it is made; here once more, from
// golden on, by other code.
func testFileSystem(t *testing.T, table, mkfs string) {
	g := sample(t, SampleOptions{Table: table, Mkfs: append([]string{"mke2fs", "-q", "-F", "-L", "data"}, strings.Fields(mkfs)...)})
	p := planTest(t, g, Target{Path: agentPath}, Target{Path: "/data/factory/serial", Mode: 0o644, UID: 70000, GID: 5})
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	for kind, length := range pemBytes {
		key := make([]byte, length)
		rand.Read(key)
		serial := fmt.Appendf(nil, "serial of %s\n", kind)
		o, err := p.Overlay(t.Context(), [][]byte{key, serial})
		if err != nil {
			t.Fatal(err)
		}
		image := produce(t, g, o)
		judge(t, image, data, judged{"/mender/mender-agent.pem", key, "0600"}, judged{"/factory/serial", serial, "0644"})
		checkContents(t, o.Template, image, key, serial)
		sameAsDebugfs(t, g, data, image, strings.Contains(mkfs, "quota"), key, serial)
		os.Remove(image)
	}
}

func checkContents(t *testing.T, template *Template, image string, contents ...[]byte) {
	t.Helper()
	file, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i, want := range contents {
		if got, err := ReadContent(template, i, file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("slot %d reads back %d bytes, %v, not the %d injected", i, len(got), err, len(want))
		}
	}
}

// sameAsDebugfs does by hand what the template stands for, and compares.
func sameAsDebugfs(t *testing.T, g *Golden, data *Partition, image string, quota bool, key, serial []byte) {
	t.Helper()
	dir := t.TempDir()
	want, got := filepath.Join(dir, "want"), filepath.Join(dir, "got")
	for from, to := range map[string]string{g.Path(): want, image: got} {
		if err := copyPart(t.Context(), from, to, data.Offset, data.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	a, b := filepath.Join(dir, "key"), filepath.Join(dir, "serial")
	for name, content := range map[string][]byte{a: key, b: serial} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tools := tools{planTime}
	// Exactly the plan's commands: s_kbytes_written depends on each look-up.
	commands := []string{`cd "/"`, `mkdir "factory"`, `sif "/factory" mode 040755`, `sif "/factory" uid 0`, `sif "/factory" gid 0`,
		`cd "/mender"`, `write "` + a + `" "mender-agent.pem"`, `sif "/mender/mender-agent.pem" mode 0100600`,
		`sif "/mender/mender-agent.pem" uid 0`, `sif "/mender/mender-agent.pem" gid 0`,
		`cd "/factory"`, `write "` + b + `" "serial"`, `sif "/factory/serial" mode 0100644`,
		`sif "/factory/serial" uid 70000`, `sif "/factory/serial" gid 5`}
	if err := tools.repair(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := tools.debugfs(t.Context(), want, commands); err != nil {
		t.Fatal(err)
	}
	if quota {
		if err := tools.repair(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	x, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	for i := range x {
		if x[i] != y[i] {
			t.Fatalf("the image differs from one that debugfs made, first in byte %d", i)
		}
	}
}
