package imaging

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// deltaCases are images and overlays that are hard to put into blocks: slots
// of 1 KiB, ones that touch, ones at both ends, a length that is no multiple
// of 4 KiB, and one across the border of two qcow2 tables.
func deltaCases(t testing.TB, dir string) map[string]func() (*handGolden, *Overlay) {
	random := func(size int64, spans ...Span) func() (*handGolden, *Overlay) {
		return func() (*handGolden, *Overlay) {
			sub, err := os.MkdirTemp(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			g := newGolden(t, sub, size, Span{0, size / 16}, Span{size / 2, size / 16})
			tmpl := &Template{Golden: g.sum, GoldenBytes: size}
			var slot Slot
			var content []byte
			for _, s := range spans {
				slot.Content = append(slot.Content, s)
				slot.Bytes += s.Length
				for range s.Length {
					content = append(content, byte(rand.N(256)))
				}
			}
			tmpl.Slots = []Slot{slot}
			o, err := tmpl.Fill([][]byte{content})
			if err != nil {
				t.Fatal(err)
			}
			return g, o
		}
	}
	return map[string]func() (*handGolden, *Overlay){
		"1 KiB slots":       random(8<<20, Span{1024, 1024}, Span{4096 + 1024, 1024}, Span{5<<20 + 3072, 1024}),
		"both ends":         random(8<<20, Span{0, 1}, Span{8<<20 - 1, 1}),
		"touching":          random(8<<20, Span{4096, 1024}, Span{5120, 9000}, Span{5120 + 9000, 10}),
		"odd length":        random(8<<20+512, Span{4<<20 - 100, 200}, Span{8 << 20, 512}),
		"across tables":     random(8<<20, Span{2<<20 - 6000, 12000}),
		"nothing to change": random(8 << 20),
		"large":             random(24<<20, Span{1 << 20, 9 << 20}),
	}
}

// judges write a device's image with the tool that flashes its format, given
// golden, the device's file and the folder that Open prepared.
var judges = map[string]func(t *testing.T, g Image, dir, file string) []byte{
	"raw": func(t *testing.T, _ Image, _, file string) []byte { return mustRead(t, file) },
	"qcow2": func(t *testing.T, _ Image, dir, file string) []byte {
		qemu := program(t, "qemu-img", "qemu-utils")
		mustRun(t, qemu, "check", file)
		out := filepath.Join(dir, "qemu.out")
		mustRun(t, qemu, "convert", "-O", "raw", file, out)
		if got := mustRun(t, qemu, "compare", out, file); !strings.Contains(got, "identical") {
			t.Fatal(got)
		}
		return mustRead(t, out)
	},
	"bmap": func(t *testing.T, g Image, dir, file string) []byte {
		bmaptool := program(t, "bmaptool", "bmap-tools")
		device := filepath.Join(dir, "bmap.out") // bmaptool truncates a file, too
		if err := os.WriteFile(device, bytes.Repeat([]byte{0}, int(g.Size())), 0o600); err != nil {
			t.Fatal(err)
		}
		loop := loopDevice(t, device)
		mustRun(t, bmaptool, "copy", "--bmap", filepath.Join(dir, filepath.Base(g.Path())+".bmap"), g.Path(), loop)
		mustRun(t, bmaptool, "copy", file, loop)
		return readDevice(t, loop, g.Size())
	},
	"simg": func(t *testing.T, g Image, dir, file string) []byte {
		simg2img := program(t, "simg2img", "android-sdk-libsparse-utils")
		device := filepath.Join(dir, "simg.out") // simg2img truncates a file, but no device
		mustRun(t, "cp", g.Path(), device)
		loop := loopDevice(t, device)
		mustRun(t, simg2img, file, loop)
		return readDevice(t, loop, g.Size())
	},
	"gz":  unpackWith("gzip", "gzip"),
	"xz":  unpackWith("xz", "xz-utils"),
	"zst": unpackWith("zstd", "zstd"),
}

// unpackWith judges a compressed file with its own tool.
func unpackWith(name, debianPackage string) func(*testing.T, Image, string, string) []byte {
	return func(t *testing.T, _ Image, _, file string) []byte {
		tool := program(t, name, debianPackage)
		mustRun(t, tool, "-t", file)
		cmd := exec.Command(tool, "-d", "-c", file)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// Every format in the registry is opened by the tool that flashes it, shows
// the device's image, and is reproducible.
func TestFormats(t *testing.T) {
	cases := deltaCases(t, t.TempDir())
	for _, format := range Formats() {
		for name, make := range cases {
			t.Run(format.Name+"/"+name, func(t *testing.T) {
				if format.Name == "xz" && name != "1 KiB slots" && name != "odd length" {
					t.Skip("it takes long to compress, and gz and zst go the same way")
				}
				g, o := make()
				dir := t.TempDir()
				w, err := format.Open(t.Context(), g, dir)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				want := wantImage(t, g, o)
				dst := filepath.Join(dir, format.FileName("device", g.Path()))
				result, err := w.Write(t.Context(), o, dst)
				if err != nil {
					t.Fatal(err)
				}
				first := mustRead(t, dst)
				if result.Bytes != int64(len(first)) {
					t.Fatalf("%d bytes, not %d", len(first), result.Bytes)
				}
				if _, err := w.Write(t.Context(), o, dst); err != nil {
					t.Fatal(err)
				}
				wantFile(t, dst, first)
				view, err := w.View(dst)
				if err != nil {
					t.Fatal(err)
				}
				defer view.Close()
				got, err := io.ReadAll(io.NewSectionReader(view, 0, g.size))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("the view shows another image: %v", err)
				}
				if left, _ := filepath.Glob(filepath.Join(dir, ".*.part")); len(left) > 0 {
					t.Fatalf("left behind: %v", left)
				}
				judge, ok := judges[format.Name]
				if !ok {
					t.Fatal("no judge")
				}
				if !bytes.Equal(judge(t, g, dir, dst), want) {
					t.Fatal("the tool makes another image")
				}
			})
		}
	}
}

// What differs costs the same in an image of 1 TiB.
func TestCostDoesNotGrowWithTheImage(t *testing.T) {
	for _, name := range []string{"qcow2", "bmap", "simg"} {
		g, _ := smallGolden(t, t.TempDir())
		if err := g.Truncate(1 << 40); err != nil {
			missing(t, "needs a file system that holds files of 1 TiB: %v", err)
		}
		g.size, g.trusted = 1<<40, true // reading 1 TiB would take an hour
		g.matter = []Span{{0, 1 << 20}, {1<<40 - 8192, 8192}}
		g.info, _ = g.Stat()
		tmpl := handTemplate(g.sum, g.size)
		tmpl.Slots[0].Content[1].Offset = 1<<40 - 4096
		tmpl.Constant = nil
		dir := t.TempDir()
		w, err := mustFormat(t, name).Open(t.Context(), g, dir)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(dir, "device")
		o := handOverlay(t, tmpl, 1)
		if _, err := w.Write(t.Context(), o, dst); err != nil {
			t.Fatal(err)
		}
		if n, err := AllocatedBytes(dst); err != nil || n > 64<<10 {
			t.Errorf("%s: %d bytes on the disk, %v", name, n, err)
		}
		view, err := w.View(dst)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadContent(tmpl, 0, view); err != nil || !bytes.Equal(got, handKey(1)) {
			t.Errorf("%s: %v", name, err)
		}
		view.Close()
	}
}

func TestFormatsOnAFullDisk(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 1)
	for _, format := range Formats() {
		dir := smallDisk(t, 12<<10)
		w, err := format.Open(t.Context(), g, dir)
		if err == nil {
			err = fillDisk(t, dir)
		}
		if err == nil {
			_, err = w.Write(t.Context(), o, filepath.Join(dir, "device"))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: not recognised: %v", format.Name, err)
		}
		for _, left := range []string{"device*", ".keymill-*"} {
			if found, _ := filepath.Glob(filepath.Join(dir, left)); len(found) > 0 {
				t.Errorf("%s leaves %v", format.Name, found)
			}
		}
	}
}

// fillDisk leaves less than a block.
func fillDisk(t *testing.T, dir string) error {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		return err
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return err
}

func TestFileName(t *testing.T) {
	for _, c := range []struct{ format, golden, want string }{
		{"raw", "a/golden.sdimg", "d1.sdimg"},
		{"raw", "golden", "d1"},
		{"qcow2", "golden.img", "d1.qcow2"},
		{"simg", "golden.img", "d1.simg"},
		{"raw", "golden.sdimg.xz", "d1.sdimg"},
		{"gz", "golden.sdimg", "d1.sdimg.gz"},
		{"zst", "golden.img.gz", "d1.img.zst"},
	} {
		if got := mustFormat(t, c.format).FileName("d1", c.golden); got != c.want {
			t.Errorf("%s of %s: %s", c.format, c.golden, got)
		}
	}
	if _, err := FindFormat("vmdk"); err == nil || !strings.Contains(err.Error(), "qcow2") {
		t.Errorf("unknown format: %v", err)
	}
}

// readDevice returns the first size bytes of a block device.
func readDevice(t testing.TB, device string, size int64) []byte {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(io.LimitReader(f, size))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustRun(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// loopDevice attaches a file to a loop device.
func loopDevice(t testing.TB, file string) string {
	t.Helper()
	out, err := exec.Command(program(t, "losetup", "mount"), "--find", "--show", file).CombinedOutput()
	if err != nil {
		missing(t, "needs a loop device (root): %s", out)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %s", loop, out)
		}
	})
	return loop
}
