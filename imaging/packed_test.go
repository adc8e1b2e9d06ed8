package imaging

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// packedForms are compressed forms as users' tools make them.
func packedForms(t *testing.T, raw string) map[string][]byte {
	t.Helper()
	run := func(name, debianPackage string, args ...string) []byte {
		out, err := exec.Command(program(t, name, debianPackage), append(args, "-c", raw)...).Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	half := func(name, debianPackage string, args ...string) []byte {
		whole := mustRead(t, raw)
		var all []byte
		for _, part := range [][]byte{whole[:len(whole)/2], whole[len(whole)/2:]} {
			cmd := exec.Command(program(t, name, debianPackage), append(args, "-c")...)
			cmd.Stdin = bytes.NewReader(part)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = append(all, out...)
		}
		return all
	}
	gz, bz2, zst := run("gzip", "gzip", "-1"), run("bzip2", "bzip2", "-1"), run("zstd", "zstd", "-1")
	skippable := []byte("\x5a\x2a\x4d\x18\x05\x00\x00\x00hello")
	return map[string][]byte{
		"golden.img.gz":           gz,
		"members.img.gz":          half("gzip", "gzip", "-1"),
		"padded.img.gz":           append(bytes.Clone(gz), make([]byte, 70000)...),
		"golden.wic.bz2":          bz2,
		"streams.wic.bz2":         half("bzip2", "bzip2", "-1"),
		"golden.img.xz":           run("xz", "xz-utils", "-0"),
		"blocks.img.xz":           run("xz", "xz-utils", "-0", "--block-size=1MiB", "--check=sha256"),
		"streams.img.xz":          append(append(half("xz", "xz-utils", "-0"), 0, 0, 0, 0), run0(t, "xz", "-0")...),
		"bcj.img.xz":              run("xz", "xz-utils", "--x86", "--lzma2=preset=0"),
		"arm.img.xz":              run("xz", "xz-utils", "--arm", "--lzma2=preset=0"),
		"delta.img.xz":            run("xz", "xz-utils", "--delta=dist=4", "--lzma2=preset=0"),
		"golden.img.zst":          zst,
		"parallel.img.zst":        run("pzstd", "zstd", "-1", "-p", "2"),
		"skippable.img.zst":       append(append(bytes.Clone(skippable), zst...), skippable...),
		"frames, long.img.zst":    half("zstd", "zstd", "-1", "--long=27"),
		"no extension, but gzip":  gz,
		"named wrongly.img.xz.gz": bz2,
	}
}

// run0 compresses nothing.
func run0(t *testing.T, name string, args ...string) []byte {
	out, err := exec.Command(program(t, name, name), append(args, "-c")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompressedForms(t *testing.T) {
	raw := sample(t, SampleOptions{Bytes: 24 << 20})
	cache := t.TempDir()
	for name, data := range packedForms(t, raw.Path()) {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		steps := map[string]int64{}
		g, err := OpenGolden(t.Context(), path, GoldenOptions{CacheDir: filepath.Join(cache, name), Progress: func(step string, done, total int64) {
			if done < steps[step] || done > total {
				t.Errorf("%s: %s, %d of %d after %d", name, step, done, total, steps[step])
			}
			steps[step] = done
		}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if g.SHA256() != raw.SHA256() || g.Size() != raw.Size() {
			t.Errorf("%s: another image", name)
		}
		if steps["unpack"] != int64(len(data)) {
			t.Errorf("%s: told of %d of %d bytes", name, steps["unpack"], len(data))
		}
		if got := mustFormat(t, "raw").FileName("d", path); strings.HasSuffix(got, ".bz2") || strings.HasSuffix(got, ".gz") {
			t.Errorf("%s: an image would be called %s", name, got)
		}
		g.Close()
	}
}

// What is no image of a disk, or one in another form, is called by its name.
func TestForeignForms(t *testing.T) {
	var zipped, archive, packed bytes.Buffer
	z := zip.NewWriter(&zipped)
	w, err := z.Create("golden.img")
	if err == nil {
		_, err = io.WriteString(w, "image")
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	tarOf := func(name string) []byte {
		archive.Reset()
		tw := tar.NewWriter(&archive)
		err := tw.WriteHeader(&tar.Header{Name: name, Size: 5, Mode: 0o600})
		if err == nil {
			_, err = io.WriteString(tw, "image")
		}
		if err := errors.Join(err, tw.Close()); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(archive.Bytes())
	}
	gz := gzip.NewWriter(&packed)
	if _, err := gz.Write(tarOf("golden.img")); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	raw := sample(t, SampleOptions{Bytes: 24 << 20})
	qcow2 := filepath.Join(dir, "x.qcow2")
	mustRun(t, program(t, "qemu-img", "qemu-utils"), "convert", "-O", "qcow2", raw.Path(), qcow2)
	simg := filepath.Join(dir, "x.simg")
	mustRun(t, program(t, "img2simg", "android-sdk-libsparse-utils"), raw.Path(), simg)
	pad := func(s string) []byte { return append([]byte(s), make([]byte, 4096)...) }
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"zip":      {zipped.Bytes(), "a zip archive"},
		"tar.gz":   {packed.Bytes(), "a tar archive, compressed with gzip"},
		"tar":      {tarOf("golden.img"), "a tar archive"},
		"artifact": {tarOf("version"), "a Mender artifact"},
		"lz4":      {pad("\x04\x22\x4d\x18\x64\x40"), "compressed with lz4"},
		"lzma":     {pad("\x5d\x00\x00\x80\x00"), "compressed with lzma"},
		"qcow2":    {mustRead(t, qcow2), "a qcow2 image"},
		"simg":     {mustRead(t, simg), "an Android sparse image"},
		"nonsense": {pad("nonsense"), "no partition table"},
	} {
		path := filepath.Join(t.TempDir(), "golden.img")
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenGolden(t.Context(), path, GoldenOptions{CacheDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if hint, ok := errors.AsType[*Error](err); !ok || hint.Hint() == "" {
			t.Errorf("%s: no advice", name)
		}
	}
}

// What lies in the cache under the right name is not believed unless it is the file
// that was unpacked.
func TestCacheIsNotTrustedByName(t *testing.T) {
	raw := sample(t, SampleOptions{Bytes: 24 << 20})
	packed := goldenForms["gz"](t, raw.Path(), t.TempDir())
	opt := GoldenOptions{CacheDir: t.TempDir()}
	g := openTest(t, packed, opt)
	name := g.Path()
	good := mustRead(t, name)
	for what, harm := range map[string]func() error{
		"changed": func() error { return os.WriteFile(name, append([]byte("x"), good[1:]...), 0o600) },
		"replaced": func() error {
			return errors.Join(os.Remove(name), os.WriteFile(name, append([]byte("x"), good[1:]...), 0o600))
		},
		"cut":  func() error { return os.Truncate(name, 1<<20) },
		"gone": func() error { return os.Remove(name) },
		"a link": func() error {
			return errors.Join(os.Rename(name, name+".elsewhere"), os.Symlink(name+".elsewhere", name))
		},
		"no record": func() error { return os.Remove(unpackedRecordName(name)) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		g := openTest(t, packed, opt)
		if g.SHA256() != raw.SHA256() || !bytes.Equal(mustRead(t, g.Path()), good) {
			t.Errorf("%s: another image was taken for golden", what)
		}
		if err := g.Prove(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Bits that were lost without anybody's writing show where golden is read for a
	// product; the file system is told to keep the times.
	h := openTest(t, packed, opt)
	h.sum[0]++
	if _, err := mustFormat(t, "raw").Open(t.Context(), h, t.TempDir()); err == nil || !strings.Contains(err.Error(), "reads otherwise") {
		t.Errorf("rotten golden: %v", err)
	}
}

// Unpacking ends at once when it is called off, and leaves nothing.
func TestUnpackingCalledOff(t *testing.T) {
	raw := sample(t, SampleOptions{Bytes: 24 << 20})
	packed := goldenForms["gz"](t, raw.Path(), t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cache := t.TempDir()
	_, err := OpenGolden(ctx, packed, GoldenOptions{CacheDir: cache, Progress: func(step string, _, _ int64) {
		if step == "unpack" {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(cache, "*.img*"))
	hidden, _ := filepath.Glob(filepath.Join(cache, ".*"))
	if len(left)+len(hidden) > 0 {
		t.Error(left, hidden)
	}
}

// FuzzDecompress unpacks what may be any form: it ends, and an error or the bytes
// come out.
func FuzzDecompress(f *testing.F) {
	for _, magic := range []string{"\x1f\x8b\x08", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "BZh9", "\x50\x2a\x4d\x18\x00\x00\x00\x00", "plain"} {
		f.Add([]byte(magic))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 16<<20))
		_ = foreignForm(data, "")
	})
}
