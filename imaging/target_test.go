package imaging

import (
	"strings"
	"testing"
)

func TestParseMode(t *testing.T) {
	for text, want := range map[string]uint16{"0600": 0o600, "600": 0o600, "644": 0o644, "4755": 0o4755, "07777": 0o7777, "0": 0} {
		if got, err := ParseMode(text); err != nil || got != want {
			t.Errorf("%s: %o, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "rw", "888", "-1", "10000", "0o600", "0x1ff", "6 0"} {
		if mode, err := ParseMode(text); err == nil {
			t.Errorf("%q is %o", text, mode)
		}
	}
}

func TestTargetsThatContradictThemselves(t *testing.T) {
	for name, target := range map[string]Target{
		"mode":                {Path: "/data/x", Mode: 0o100600},
		"kind":                {Path: "/data/x", Kind: 9},
		"folder with content": {Path: "/data/x", Kind: TargetDirectory, Fixed: []byte("x")},
		"link to nowhere":     {Path: "/data/x", Kind: TargetSymlink},
		"file that leads":     {Path: "/data/x", Link: "y"},
		"link with a newline": {Path: "/data/x", Kind: TargetSymlink, Link: "y\nrm z"},
		"attribute":           {Path: "/data/x", XAttrs: map[string]string{"selinux": ""}},
		"attribute's newline": {Path: "/data/x", XAttrs: map[string]string{"user.\n": ""}},
	} {
		if err := target.check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAllKinds puts one of everything into several file systems.
func TestAllKinds(t *testing.T) {
	label := "system_u:object_r:mender_key_t:s0\x00"
	targets := []Target{
		{Path: agentPath, XAttrs: map[string]string{"security.selinux": label}},
		{Path: "/data/factory/notes", Fixed: []byte("the same for all\n"), Mode: 0o4644},
		{Path: "/data/factory", Kind: TargetDirectory, Mode: 0o750, UID: 100_000, GID: 33},
		{Path: "/data/mender", Kind: TargetDirectory, Mode: 0o711},
		{Path: "/data/empty/one", Kind: TargetDirectory},
		{Path: "/data/short", Kind: TargetSymlink, Link: "mender/mender-agent.pem"},
		{Path: "/data/long", Kind: TargetSymlink, Link: "/data/" + strings.Repeat("x/", 40), UID: 7},
		{Path: "/data/none", Fixed: []byte{}},
		{Path: "partition:2:/etc/serial", Mode: 0o644},
	}
	for _, mkfs := range []string{"-t ext4", "-t ext4 -b 4096 -I 128", "-t ext2 -b 1024", "-t ext4 -O inline_data,metadata_csum_seed"} {
		t.Run(mkfs, func(t *testing.T) {
			t.Parallel()
			g := sample(t, SampleOptions{Mkfs: append([]string{"mke2fs", "-q", "-F", "-L", "data"}, strings.Fields(mkfs)...)})
			p := planTest(t, g, targets...)
			key, serial := []byte(strings.Repeat("key", 40)), []byte("4711\n")
			o, err := p.Overlay(t.Context(), [][]byte{key, serial})
			if err != nil {
				t.Fatal(err)
			}
			image := produce(t, g, o)
			data, err := g.Data()
			if err != nil {
				t.Fatal(err)
			}
			judge(t, image, data, judged{"/mender/mender-agent.pem", key, "0600"}, judged{"/factory/notes", targets[1].Fixed, "04644"})
			root, err := g.partition(2)
			if err != nil {
				t.Fatal(err)
			}
			judge(t, image, root, judged{"/etc/serial", serial, "0644"})
			part := t.TempDir() + "/part"
			if err := copyPart(t.Context(), image, part, data.Offset, data.Bytes); err != nil {
				t.Fatal(err)
			}
			for command, want := range map[string]string{
				"stat /factory":   "Mode:  0750",
				"stat /mender":    "Mode:  0711",
				"stat /empty/one": "Mode:  0755",
				"stat /short":     `dest: "mender/mender-agent.pem"`,
				"cat /long":       "x/x/x/",
				"stat /long":      "User:     7",
				"stat /none":      "Size: 0",
				"ea_get -V /mender/mender-agent.pem security.selinux": label,
			} {
				if got := tool(t, "debugfs", "-R", command, part); !strings.Contains(got, want) {
					t.Errorf("%s: no %q in\n%s", command, want, got)
				}
			}
			if got := tool(t, "debugfs", "-R", "stat /factory", part); !strings.Contains(got, "User: 100000") {
				t.Error(got)
			}
		})
	}
}

func TestRefusedFileSystems(t *testing.T) {
	for name, test := range map[string]struct {
		pkg     string
		mkfs    []string
		message string
	}{
		"btrfs": {"btrfs-progs", []string{"mkfs.btrfs", "-q", "-f"}, "checksums of all data"},
		"xfs":   {"xfsprogs", []string{"mkfs.xfs", "-q", "-f"}, "mounting"},
		"luks":  {"cryptsetup-bin", []string{"cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/dev/stdin"}, "encrypts"},
		"swap":  {"util-linux", []string{"mkswap"}, "swap space"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, test.pkg, test.mkfs[0])
			size := int64(64 << 20)
			switch name {
			case "btrfs":
				size = 640 << 20
			case "xfs":
				size = 1400 << 20
			case "luks":
				test.mkfs[len(test.mkfs)-1] = host(t, "passphrase")
			}
			g := sample(t, SampleOptions{Bytes: size, Mkfs: test.mkfs})
			refusedFor(t, g, test.message)
		})
	}
	for name, start := range map[string]string{"squashfs": "hsqs", "ubi": "UBI#", "ubifs": "\x31\x18\x10\x06", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			g := sample(t, SampleOptions{Mkfs: []string{"sh", "-c", `cat "$0" >"$1"; truncate -s 8M "$1"`, host(t, start)}})
			refusedFor(t, g, map[string]string{"squashfs": "read-only", "ubi": "flash chip", "ubifs": "flash chip", "nothing": "no known file system"}[name])
		})
	}
}

func refusedFor(t *testing.T, g *Golden, message string) {
	t.Helper()
	_, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), message) {
		t.Errorf("%v, want ..%s..", err, message)
	}
}
