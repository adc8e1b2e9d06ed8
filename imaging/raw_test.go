package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// handGolden is a golden image without file systems: what writers need of one.
type handGolden struct {
	*os.File
	size int64
	sum  [32]byte
	info os.FileInfo
	// trusted spares Prove the reading.
	trusted bool
	// matter is what Matter returns; nil: all of it.
	matter []Span
}

func (g *handGolden) Path() string              { return g.Name() }
func (g *handGolden) Size() int64               { return g.size }
func (g *handGolden) SHA256() [sha256.Size]byte { return g.sum }
func (g *handGolden) Matter(context.Context) ([]Span, error) {
	if g.matter != nil {
		return g.matter, nil
	}
	return []Span{{0, g.size}}, nil
}
func (g *handGolden) Prove(ctx context.Context) error {
	if g.trusted {
		return nil
	}
	sum, err := sumFile(ctx, g.Name(), g.size, nil)
	if err == nil && sum != g.sum {
		err = errors.New("golden reads otherwise")
	}
	return err
}
func (g *handGolden) Unchanged() error {
	info, err := os.Stat(g.Name())
	if err == nil && (info.Size() != g.size || !info.ModTime().Equal(g.info.ModTime())) {
		err = errors.New("golden was changed")
	}
	return err
}

// newGolden makes a sparse golden image in dir, holes where data doesn't say
// otherwise. Its blocks begin with random bytes and repeat their number, so that
// none is like another, and yet they can be compressed.
func newGolden(t testing.TB, dir string, size int64, data ...Span) *handGolden {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "golden.sdimg"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{7})
	buf := make([]byte, 1<<20)
	for _, span := range data {
		for at := span.Offset; at < span.Offset+span.Length; at += int64(len(buf)) {
			for i := 0; i < len(buf); i += 4096 {
				if _, err := noise.Read(buf[i : i+256]); err != nil {
					t.Fatal(err)
				}
				copy(buf[i+256:i+4096], bytes.Repeat(fmt.Appendf(nil, "%08d", at/4096+int64(i)), 480))
			}
			part := buf[:min(int64(len(buf)), span.Offset+span.Length-at)]
			if _, err := f.WriteAt(part, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	g := &handGolden{File: f, size: size}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		t.Fatal(err)
	}
	h.Sum(g.sum[:0])
	if g.info, err = f.Stat(); err != nil {
		t.Fatal(err)
	}
	return g
}

// smallGolden is 4 MiB, of which 1 MiB is data, with a template for it.
func smallGolden(t testing.TB, dir string) (*handGolden, *Template) {
	g := newGolden(t, dir, 4<<20, Span{0, 8192}, Span{1 << 20, 1 << 20}, Span{3<<20 + 4096, 4096})
	return g, handTemplate(g.sum, g.size)
}

// wantImage returns the bytes of a device's image, made the plain way.
func wantImage(t testing.TB, g Image, o *Overlay) []byte {
	t.Helper()
	image := make([]byte, g.Size())
	if _, err := g.ReadAt(image, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for _, e := range append(o.Template.Constant[:len(o.Template.Constant):len(o.Template.Constant)], o.Slots...) {
		copy(image[e.Offset:], e.Data)
	}
	return image
}

func wantFile(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes, not the %d that were expected, or others", filepath.Base(path), len(got), len(want))
	}
}

// wantNothingElse checks that a folder holds only these files.
func wantNothingElse(t testing.TB, dir string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Fatalf("the folder holds %q, not %q", got, names)
	}
}

func TestRawIsGoldenWithTheOverlay(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	dir := t.TempDir()
	dst := filepath.Join(dir, "device.sdimg")
	w, err := mustFormat(t, "raw").Open(t.Context(), g, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for n := range 3 { // the later ones replace the first
		o := handOverlay(t, tmpl, n)
		result, err := w.Write(t.Context(), o, dst)
		if err != nil {
			t.Fatal(err)
		}
		if result.Bytes != g.size {
			t.Fatalf("%+v", result)
		}
		wantFile(t, dst, wantImage(t, g, o))
		view, err := w.View(dst)
		if err != nil {
			t.Fatal(err)
		}
		content, err := ReadContent(tmpl, 0, view)
		if err != nil || !bytes.Equal(content, handKey(n)) {
			t.Fatalf("read back: %v", err)
		}
		view.Close()
	}
	if info, _ := os.Stat(dst); info.Mode() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}
	if n, err := AllocatedBytes(dst); err != nil || n > 2<<20 {
		t.Fatalf("%d bytes on the disk, %v", n, err)
	}
	wantNothingElse(t, dir, "device.sdimg", "device.sdimg.bmap")
}

func mustFormat(t testing.TB, name string) Format {
	t.Helper()
	f, err := FindFormat(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A golden image that was downloaded has its zeros written out; the copies
// don't.
func TestRawLeavesZerosOut(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	full := wantImage(t, g, &Overlay{Template: &Template{}})
	if _, err := g.WriteAt(full, 0); err != nil {
		t.Fatal(err)
	}
	g.info, _ = g.Stat()
	dst := filepath.Join(t.TempDir(), "device.img")
	o := handOverlay(t, tmpl, 1)
	if _, err := WriteRaw(t.Context(), g, o, dst); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dst, wantImage(t, g, o))
	before, _ := AllocatedBytes(g.Path())
	after, _ := AllocatedBytes(dst)
	if before < 4<<20 || after > 2<<20 {
		t.Fatalf("golden takes %d bytes, the copy %d", before, after)
	}
}

func TestRawSharesBlocksOnXFS(t *testing.T) {
	dir := xfsDisk(t)
	g, tmpl := smallGolden(t, dir)
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir  string
		want bool
	}{{out, true}, {t.TempDir(), false}} {
		shared, err := Reflinks(g, c.dir)
		if err != nil || shared != c.want {
			t.Fatalf("reflinks to %s: %v, %v", c.dir, shared, err)
		}
		o := handOverlay(t, tmpl, 1)
		dst := filepath.Join(c.dir, "device.sdimg")
		result, err := WriteRaw(t.Context(), g, o, dst)
		if err != nil || result.Shared != c.want {
			t.Fatalf("%+v, %v", result, err)
		}
		wantFile(t, dst, wantImage(t, g, o))
		wantNothingElse(t, c.dir, "device.sdimg")
	}
}

func TestRawRefuses(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 1)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, try := range map[string]func(dir string) error{
		"a context that is over": func(dir string) error {
			_, err := WriteRaw(cancelled, g, o, filepath.Join(dir, "d"))
			return err
		},
		"an overlay of another golden image": func(dir string) error {
			_, err := WriteRaw(t.Context(), g, handOverlay(t, handTemplate([32]byte{1}, g.size), 1), filepath.Join(dir, "d"))
			return err
		},
		"a golden image that was changed": func(dir string) error {
			other, tmpl := smallGolden(t, t.TempDir())
			if err := other.Truncate(other.size + 1); err != nil {
				t.Fatal(err)
			}
			_, err := WriteRaw(t.Context(), other, handOverlay(t, tmpl, 1), filepath.Join(dir, "d"))
			return err
		},
	} {
		dir := t.TempDir()
		if err := try(dir); err == nil {
			t.Errorf("took %s", name)
		}
		wantNothingElse(t, dir)
	}
}

func TestRawOnAFullDisk(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	dir := smallDisk(t, 1<<20)
	if n, err := FreeBytes(dir); err != nil || n > 1<<20 {
		t.Fatalf("%d bytes free, %v", n, err)
	}
	_, err := WriteRaw(t.Context(), g, handOverlay(t, tmpl, 1), filepath.Join(dir, "device.img"))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("not recognised: %v", err)
	}
	wantNothingElse(t, dir)
	if n, _ := FreeBytes(dir); n < 1<<20-64<<10 {
		t.Fatalf("%d bytes free after that", n)
	}
}

func TestPublishCleansUpAfterTheKilled(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	dir := t.TempDir()
	dst := filepath.Join(dir, strings.Repeat("n", 250))
	left := tempName(dst)
	if err := os.WriteFile(left, []byte("PRIVATE"), 0o600); err != nil {
		t.Fatal(err)
	}
	writing, err := os.OpenFile(left, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := flock(writing); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteRaw(t.Context(), g, handOverlay(t, tmpl, 1), dst); !errors.Is(err, errWriting) {
		t.Fatalf("two at once: %v", err)
	}
	if n, err := RemoveLeftovers(dir); n != 0 || err != nil {
		t.Fatalf("removed %d that are being written, %v", n, err)
	}
	writing.Close()
	if _, err := WriteRaw(t.Context(), g, handOverlay(t, tmpl, 1), dst); err != nil {
		t.Fatal(err)
	}
	wantNothingElse(t, dir, filepath.Base(dst))
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := RemoveLeftovers(dir); n != 1 || err != nil {
		t.Fatalf("removed %d, %v", n, err)
	}
	wantNothingElse(t, dir, filepath.Base(dst))
}

// Killed at any moment, nothing half-written carries a final name.
func TestPublishKilled(t *testing.T) {
	if dir := os.Getenv(crashHelper); dir != "" {
		publishForever(t, dir)
	}
	dir := t.TempDir()
	g, tmpl := smallGolden(t, dir)
	published := 0
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPublishKilled$")
		cmd.Env = append(os.Environ(), crashHelper+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var line [1]byte
		for range 10 + round*7 {
			if _, err := out.Read(line[:]); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		images, _ := filepath.Glob(filepath.Join(dir, "device-*.img"))
		for _, path := range images {
			var n int
			if _, err := fmt.Sscanf(filepath.Base(path), "device-%d.img", &n); err != nil {
				t.Fatal(err)
			}
			wantFile(t, path, wantImage(t, g, handOverlay(t, tmpl, n)))
			os.Remove(path)
		}
		published += len(images)
	}
	if published < 50 {
		t.Fatalf("only %d images", published)
	}
	if _, err := RemoveLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	wantNothingElse(t, dir, "golden.sdimg")
}

func publishForever(t *testing.T, dir string) {
	f, err := os.Open(filepath.Join(dir, "golden.sdimg"))
	if err != nil {
		t.Fatal(err)
	}
	g := &handGolden{File: f, size: 4 << 20}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	h.Sum(g.sum[:0])
	g.info, _ = f.Stat()
	tmpl := handTemplate(g.sum, g.size)
	for n := 0; ; n++ {
		dst := filepath.Join(dir, fmt.Sprintf("device-%d.img", n))
		if _, err := WriteRaw(t.Context(), g, handOverlay(t, tmpl, n), dst); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(".")
	}
}

// xfsDisk mounts an sparse XFS of 3 GiB, which has reflinks.
func xfsDisk(t testing.TB) string {
	t.Helper()
	mkfs := program(t, "mkfs.xfs", "xfsprogs")
	mount := program(t, "mount", "mount")
	file := filepath.Join(t.TempDir(), "xfs")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 3<<30); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-m", "reflink=1", file).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v\n%s", err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command(mount, "-o", "loop", file, dir).CombinedOutput(); err != nil {
		missing(t, "needs to mount a loop device (root): %s", out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// program returns the path of a program that judges: its absence fails the test
// where CI is set, and skips it elsewhere.
func program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	missing(t, "%s is missing: install Debian's %s", name, debianPackage)
	return ""
}
