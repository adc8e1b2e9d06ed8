package imaging

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// judgeFAT has fsck.vfat and mtools look at a partition of a produced image.
func judgeFAT(t *testing.T, image string, p *Partition, path string, content []byte) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "part")
	if err := copyPart(t.Context(), image, part, p.Offset, p.Bytes); err != nil {
		t.Fatal(err)
	}
	tool(t, "fsck.vfat", "-n", part)
	if got := tool(t, "mtype", "-i", part, "::"+path); got != string(content) {
		t.Errorf("mtools reads %d bytes from %s, not the %d injected", len(got), path, len(content))
	}
	if dir := tool(t, "mdir", "-i", part, "::"+path); !strings.Contains(dir, "2026-11-22  17:00") {
		t.Error("the time is not pinned:\n", dir)
	}
}

func TestFAT(t *testing.T) {
	need(t, "mtools", "mcopy", "mmd", "mtype")
	need(t, "dosfstools", "mkfs.vfat", "fsck.vfat")
	for name, test := range map[string]struct {
		bytes int64
		mkfs  string
	}{
		"FAT12":          {32 << 20, "mkfs.vfat -F 12"},
		"FAT16":          {96 << 20, "mkfs.vfat -F 16"},
		"FAT32":          {400 << 20, "mkfs.vfat -F 32 -s 1"},
		"small FAT32":    {96 << 20, "mkfs.vfat -F 32 -s 1"},
		"large clusters": {400 << 20, "mkfs.vfat -F 16 -s 64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := sample(t, SampleOptions{Bytes: test.bytes, Mkfs: strings.Fields(test.mkfs)})
			data, err := g.Data()
			if err != nil {
				t.Fatal(err)
			}
			p := planTest(t, g, Target{Path: "/data/config.txt"}, Target{Path: "/data/Mender Files/a long name.pem"},
				Target{Path: "/data/EFI/BOOT/STARTUP.NSH", Fixed: []byte("fs0:\r\n")})
			for _, length := range []int{0, 1, 511, 512, 513, 5000, 40_000} {
				config, key := bytes.Repeat([]byte("c"), length), bytes.Repeat([]byte("k"), 119)
				o, err := p.Overlay(t.Context(), [][]byte{config, key})
				if err != nil {
					t.Fatal(err)
				}
				image := produce(t, g, o)
				judgeFAT(t, image, data, "/config.txt", config)
				judgeFAT(t, image, data, "/Mender Files/a long name.pem", key)
				judgeFAT(t, image, data, "/EFI/BOOT/STARTUP.NSH", []byte("fs0:\r\n"))
				checkContents(t, o.Template, image, config, key)
			}
		})
	}
}

func TestBootPartitionBesideData(t *testing.T) {
	need(t, "mtools", "mcopy")
	need(t, "dosfstools", "mkfs.vfat", "fsck.vfat")
	g := sampleWith(t)
	p := planTest(t, g, Target{Path: agentPath}, Target{Path: "partition:1:/serial.txt"})
	o, err := p.Overlay(t.Context(), [][]byte{[]byte("key"), []byte("4711\n")})
	if err != nil {
		t.Fatal(err)
	}
	image := produce(t, g, o)
	boot, err := g.partition(1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	judgeFAT(t, image, boot, "/serial.txt", []byte("4711\n"))
	judge(t, image, data, judged{"/mender/mender-agent.pem", []byte("key"), "0600"})
}

func TestRefusedOnFAT(t *testing.T) {
	need(t, "mtools", "mcopy")
	need(t, "dosfstools", "mkfs.vfat", "fsck.vfat")
	g := sampleWith(t)
	for name, targets := range map[string][]Target{
		"neither links":  {{Path: "partition:1:/x", Kind: TargetSymlink, Link: "y"}},
		"nor owners":     {{Path: "partition:1:/x", UID: 5}},
		"nor attributes": {{Path: "partition:1:/x", XAttrs: map[string]string{"user.x": "y"}}},
		"are the same":   {{Path: "partition:1:/x"}, {Path: "partition:1:/X"}},
	} {
		_, err := NewPlan(t.Context(), g, targets, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want ..%s..", err, name)
		}
	}
}

// FuzzFAT requires that no bytes make the reader panic, run on, or read outside
// the partition.
func FuzzFAT(f *testing.F) {
	for _, bits := range []int{12, 32} {
		if _, err := lookTool("mkfs.vfat", "dosfstools"); err != nil {
			continue
		}
		name := filepath.Join(f.TempDir(), "fs")
		tool(f, "mkfs.vfat", "-C", "-f", "1", "-r", "16", "-s", "1", "-F", strconv.Itoa(bits), name, "64")
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fat, err := openFAT(&bounded{t, b}, 0, int64(len(b)))
		if err != nil {
			return
		}
		for _, path := range []string{"/X", "/A/B"} {
			if e, _, err := fat.find(path); err == nil {
				_, _ = fat.content(e, 1<<20)
			}
		}
	})
}
