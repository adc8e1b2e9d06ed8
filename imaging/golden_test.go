package imaging

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSumIsThatOfTheWholeFile(t *testing.T) {
	g := sample(t, SampleOptions{})
	file, err := os.Open(g.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	if got := g.SHA256(); [32]byte(hash.Sum(nil)) != got {
		t.Errorf("%x is not the file's hash", got)
	}
}

func TestSamplesAreAlike(t *testing.T) {
	for _, table := range []string{TableMBR, TableGPT} {
		if a, b := sample(t, SampleOptions{Table: table}), sample(t, SampleOptions{Table: table}); a.SHA256() != b.SHA256() {
			t.Errorf("two samples with %s differ", table)
		}
	}
}

func TestCachedSum(t *testing.T) {
	g, dir := sample(t, SampleOptions{}), filepath.Join(t.TempDir(), "cache")
	opt := GoldenOptions{CacheDir: dir}
	first := openTest(t, g.Path(), opt).SHA256()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	kept := filepath.Join(dir, files[0].Name())
	if err := os.WriteFile(kept, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := openTest(t, g.Path(), opt).SHA256(); got[0] != 0xab {
		t.Error("the kept hash is not used")
	}
	if err := os.WriteFile(kept, []byte("ab"), 0o600); err != nil { // torn
		t.Fatal(err)
	}
	if got := openTest(t, g.Path(), opt).SHA256(); got != first {
		t.Error("a torn hash is used")
	}
	if err := os.Chtimes(g.Path(), planTime, planTime); err != nil {
		t.Fatal(err)
	}
	openTest(t, g.Path(), opt)
	if files, _ = os.ReadDir(dir); len(files) != 2 {
		t.Error("a changed file found its old hash")
	}
}

// A golden image that changes behind the plan would give devices a mixture.
func TestChangedGoldenIsRefused(t *testing.T) {
	for name, change := range map[string]func(name string) error{
		"written": func(name string) error {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{1}, 4000)
			return errors.Join(err, f.Close(), os.Chtimes(name, time.Time{}, planTime))
		},
		"longer": func(name string) error { return os.Truncate(name, 65<<20) },
		"replaced": func(name string) error {
			return errors.Join(copyPart(t.Context(), name, name+"2", 0, 64<<20), os.Rename(name+"2", name))
		},
		"gone": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			g := sampleWith(t)
			p := planTest(t, g, Target{Path: agentPath})
			if err := g.Unchanged(); err != nil {
				t.Fatal(err)
			}
			if err := change(g.Path()); err != nil {
				t.Fatal(err)
			}
			if err := g.Unchanged(); err == nil {
				t.Error("not noticed")
			}
			if _, err := p.Overlay(t.Context(), [][]byte{[]byte("key")}); err == nil {
				t.Error("a template was made")
			}
		})
	}
}

func TestDataPartition(t *testing.T) {
	four, six := sample(t, SampleOptions{}).Path(), sixPartitions(t)
	for name, test := range map[string]struct {
		image, setting string
		number         int
		message        string
	}{
		"number 4 of 4":       {four, "", 4, ""},
		"by number":           {four, "2", 2, ""},
		"by label":            {four, "rootfs", 0, "2 partitions are called"},
		"by PARTUUID":         {four, "314c4d4b-03", 3, ""},
		"by PARTUUID, upper":  {four, "314C4D4B-03", 3, ""},
		"unknown number":      {four, "7", 0, "there is no partition \"7\""},
		"unknown label":       {four, "nope", 0, "4: ext4 \"data\""},
		"5 or 6 of six":       {six, "6", 6, ""},
		"GPT name":            {six, "persistent", 6, ""},
		"file system's label": {six, "data", 5, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := OpenGolden(t.Context(), test.image, GoldenOptions{Partition: test.setting})
			if test.message != "" {
				if err == nil || !strings.Contains(err.Error(), test.message) {
					t.Fatalf("%v, want ..%s..", err, test.message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			data, err := g.Data()
			if err != nil || data.Number != test.number {
				t.Errorf("%+v, %v", data, err)
			}
		})
	}
}

// sixPartitions has ext4 labelled data on 5, and /mender on 6.
func sixPartitions(t *testing.T) string {
	t.Helper()
	name := disk(t, 32<<20, "label: gpt\n"+strings.Repeat("size=1MiB\n", 4)+"size=8MiB\nsize=8MiB, name=persistent\n")
	putPartition(t, name, 5<<20, 8<<20, "-L", "data")
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(tree, "mender"), 0o755); err != nil {
		t.Fatal(err)
	}
	putPartition(t, name, 13<<20, 8<<20, "-d", tree)
	return name
}

func putPartition(t *testing.T, image string, offset, size int64, args ...string) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "part")
	tool(t, "mke2fs", append(append([]string{"-q", "-t", "ext4"}, args...), part, "8M")...)
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := writeNonZero(file, b[:size], offset); err != nil {
		t.Fatal(err)
	}
}

func TestFolderMenderShowsTheDataPartition(t *testing.T) {
	name := sixPartitions(t)
	tool(t, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", "--delete", name, "5")
	g := openTest(t, name, GoldenOptions{})
	if data, err := g.Data(); err != nil || data.Number != 6 {
		t.Errorf("%+v, %v", data, err)
	}
}

func TestNoDataPartition(t *testing.T) {
	name := disk(t, 32<<20, "label: gpt\nsize=1MiB\nsize=2MiB, name=boot\n")
	g := openTest(t, name, GoldenOptions{})
	_, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), `2: unknown "boot" 2 MiB`) {
		t.Errorf("%v does not list the partitions", err)
	}
	if hint, ok := errors.AsType[*Error](err); !ok || !strings.Contains(hint.Hint(), "image.partition") {
		t.Errorf("%v has no hint", err)
	}
}

func TestNotAnImage(t *testing.T) {
	if _, err := OpenGolden(t.Context(), filepath.Join(t.TempDir(), "none"), GoldenOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := OpenGolden(t.Context(), t.TempDir(), GoldenOptions{}); err == nil {
		t.Error("a folder was accepted")
	}
	name := filepath.Join(t.TempDir(), "empty.img")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenGolden(t.Context(), name, GoldenOptions{}); err == nil {
		t.Error("an empty file was accepted")
	}
}

func TestCompressedGolden(t *testing.T) {
	raw := sample(t, SampleOptions{})
	for name, test := range map[string]struct{ pkg, tool, extension string }{
		"gzip": {"gzip", "gzip", ".gz"}, "xz": {"xz-utils", "xz", ".xz"}, "zstd": {"zstd", "zstd", ".zst"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, test.pkg, test.tool)
			dir := t.TempDir()
			plain := filepath.Join(dir, "golden.sdimg")
			if err := copyPart(t.Context(), raw.Path(), plain, 0, raw.Size()); err != nil {
				t.Fatal(err)
			}
			tool(t, test.tool, "-1", "-q", plain)
			packed, opt := plain+test.extension, GoldenOptions{CacheDir: filepath.Join(dir, "cache")}
			if err := errors.Join(os.Mkdir(opt.CacheDir, 0o700), os.WriteFile(filepath.Join(opt.CacheDir, ".unpack-killed"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			g := openTest(t, packed, opt)
			if g.SHA256() != raw.SHA256() || filepath.Ext(g.Path()) != ".sdimg" {
				t.Errorf("%s: %x", g.Path(), g.SHA256())
			}
			info, err := os.Stat(g.Path())
			if err != nil {
				t.Fatal(err)
			}
			if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Blocks*512 > raw.Size()/2 || info.Mode().Perm() != 0o600 {
				t.Errorf("not sparse, or %v", info.Mode())
			}
			again := openTest(t, packed, opt)
			if err := g.Unchanged(); err != nil || again.Path() != g.Path() {
				t.Error("unpacked again:", err)
			}
			if _, err := OpenGolden(t.Context(), packed, GoldenOptions{}); err == nil {
				t.Error("unpacked without a cache")
			}
			cutOff(t, packed)
			if _, err := OpenGolden(t.Context(), packed, opt); err == nil {
				t.Error("a cut-off file was accepted")
			}
			left, err := filepath.Glob(filepath.Join(opt.CacheDir, ".*"))
			if err != nil || len(left) > 0 {
				t.Error(left, err)
			}
		})
	}
}

func cutOff(t *testing.T, name string) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}
