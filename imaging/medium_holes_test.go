package imaging

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// goldenForms are the ways in which the same golden image comes to a factory; each
// has other holes, or none.
var goldenForms = map[string]func(t *testing.T, raw, dir string) string{
	"cp": func(t *testing.T, raw, dir string) string {
		mustRun(t, "cp", "--sparse=never", raw, filepath.Join(dir, "golden.img"))
		return filepath.Join(dir, "golden.img")
	},
	"cp-sparse": func(t *testing.T, raw, dir string) string {
		mustRun(t, "cp", "--sparse=always", raw, filepath.Join(dir, "golden.img"))
		return filepath.Join(dir, "golden.img")
	},
	"dd-sparse": func(t *testing.T, raw, dir string) string {
		mustRun(t, "dd", "if="+raw, "of="+filepath.Join(dir, "golden.sdimg"), "conv=sparse", "bs=4k", "status=none")
		return filepath.Join(dir, "golden.sdimg")
	},
	"gz":  packedBy("gzip", "gzip", "golden.img.gz"),
	"xz":  packedBy("xz", "xz-utils", "golden.img.xz", "-0"),
	"zst": packedBy("zstd", "zstd", "golden.img.zst"),
	"bz2": packedBy("bzip2", "bzip2", "golden.wic.bz2"),
}

func packedBy(name, debianPackage, file string, args ...string) func(*testing.T, string, string) string {
	return func(t *testing.T, raw, dir string) string {
		out := filepath.Join(dir, file)
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd := exec.Command(program(t, name, debianPackage), append(args, "-c", raw)...)
		cmd.Stdout = f
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
}

// zeroFileGolden is a golden image whose data partition has a file with zeros in
// its middle, which a used medium must get, too.
func zeroFileGolden(t *testing.T) string {
	content := append([]byte("SQLite format 3"), make([]byte, 1_500_000)...)
	store := host(t, string(append(content, "end"...)))
	return sampleWith(t, "write "+store+" store.db").Path()
}

// Whatever the form in which golden comes, a used medium gets the image byte by byte:
// written here, by bmaptool from golden and delta, and by bmaptool from the raw image.
func TestHolesAreNoLicence(t *testing.T) {
	raw := zeroFileGolden(t)
	bmaptool := program(t, "bmaptool", "bmap-tools")
	for form, make := range goldenForms {
		t.Run(form, func(t *testing.T) {
			dir := t.TempDir()
			g := openTest(t, make(t, raw, dir), GoldenOptions{CacheDir: filepath.Join(dir, "cache")})
			plan := planTest(t, g, Target{Path: agentPath, Mode: 0o600})
			o, err := plan.Overlay(t.Context(), [][]byte{bytes.Repeat([]byte("k"), 119)})
			if err != nil {
				t.Fatal(err)
			}
			want := wantImage(t, g, o)
			if !bytes.Equal(wantImage(t, g, &Overlay{Template: &Template{}}), mustRead(t, raw)) {
				t.Fatal("not the same golden image")
			}
			check := func(how, medium string) {
				t.Helper()
				if !bytes.Equal(readDevice(t, medium, g.Size()), want) {
					t.Errorf("%s: the medium holds something else", how)
				}
			}
			medium := oldMedium(t, MediumDisk, g.Size())
			if _, err := openTestMedium(t, medium).Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker}); err != nil {
				t.Fatal(err)
			}
			check("written", medium)

			images := t.TempDir()
			write := func(name string) string {
				w, err := mustFormat(t, name).Open(t.Context(), g, images)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				dst := filepath.Join(images, mustFormat(t, name).FileName("device", g.Path()))
				if _, err := w.Write(t.Context(), o, dst); err != nil {
					t.Fatal(err)
				}
				return dst
			}
			delta := write("bmap")
			medium = oldMedium(t, MediumDisk, g.Size())
			mustRun(t, bmaptool, "copy", "--bmap", filepath.Join(images, filepath.Base(g.Path())+".bmap"), g.Path(), medium)
			mustRun(t, bmaptool, "copy", delta, medium)
			check("bmap", medium)

			image := write("raw")
			if n, err := AllocatedBytes(image); err != nil || n > g.Size()/2 {
				t.Errorf("the raw image takes %d bytes, %v", n, err)
			}
			medium = oldMedium(t, MediumDisk, g.Size())
			mustRun(t, bmaptool, "copy", image, medium)
			check("raw with its block map", medium)
		})
	}
}

// Golden's own block map, made where it was built, is what allows skipping.
func TestOwnBlockMap(t *testing.T) {
	raw := sample(t, SampleOptions{}).Path()
	dir := t.TempDir()
	name := filepath.Join(dir, "golden.wic")
	mustRun(t, "cp", "--sparse=always", raw, name)
	mustRun(t, program(t, "bmaptool", "bmap-tools"), "create", "-o", name+".bmap", name)
	whole := mustRead(t, name+".bmap")
	mustRun(t, program(t, "gzip", "gzip"), "-k", name)
	for _, path := range []string{name, name + ".gz"} {
		g := openTest(t, path, GoldenOptions{CacheDir: filepath.Join(dir, "cache")})
		matter, err := g.Matter(t.Context())
		if err != nil || len(matter) < 2 {
			t.Fatalf("%s: %v, %v", path, matter, err)
		}
		plan := planTest(t, g, Target{Path: agentPath, Mode: 0o600})
		o, err := plan.Overlay(t.Context(), [][]byte{bytes.Repeat([]byte("k"), 119)})
		if err != nil {
			t.Fatal(err)
		}
		medium := oldMedium(t, MediumDisk, g.Size())
		result, err := openTestMedium(t, medium).Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker})
		if err != nil || result.Skipped == 0 {
			t.Fatalf("%+v, %v", result, err)
		}
		got, want := readDevice(t, medium, g.Size()), wantImage(t, g, o)
		spans := append(matter[:len(matter):len(matter)], Span{0, mediumHead})
		for _, e := range o.Extents() {
			spans = append(spans, Span{e.Offset, int64(len(e.Data))})
		}
		for _, s := range joinSpans(spans) {
			if !bytes.Equal(got[s.Offset:s.Offset+s.Length], want[s.Offset:s.Offset+s.Length]) {
				t.Errorf("another image at %v", s)
			}
		}
	}
	for what, bend := range map[string]func([]byte) []byte{
		"another length": func(b []byte) []byte { return bytes.Replace(b, []byte("67108864"), []byte("67108860"), 1) },
		"a lost range": func(b []byte) []byte {
			i := bytes.Index(b, []byte("<Range"))
			return append(b[:i:i], b[i+bytes.IndexByte(b[i:], '\n'):]...)
		},
		"another content": func(b []byte) []byte {
			i := bytes.Index(b, []byte("chksum=\"")) + 8
			b[i] = "0123456789abcdef0"[bytes.IndexByte([]byte("0123456789abcdef"), b[i])+1]
			// Its own checksum is made to hold again.
			at := bytes.Index(b, []byte("<BmapFileChecksum>")) + len("<BmapFileChecksum>") + 1
			copy(b[at:at+64], bytes.Repeat([]byte("0"), 64))
			return sealBlockMap(b, at)
		},
		"nonsense": func([]byte) []byte { return []byte("<bmap>") },
	} {
		bent := bend(bytes.Clone(whole))
		if bytes.Equal(bent, whole) {
			t.Fatalf("%s: nothing was bent", what)
		}
		if err := os.WriteFile(name+".bmap", bent, 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := OpenGolden(t.Context(), name, GoldenOptions{})
		if err == nil {
			_, err = g.Matter(t.Context())
			g.Close()
		}
		if err == nil {
			t.Errorf("%s was believed", what)
		}
	}
}

// FuzzBlockMap reads what may be a block map: ranges lie within the image and
// ascend, whatever it says.
func FuzzBlockMap(f *testing.F) {
	f.Add(marshalBmap(1<<20, []bmapRange{{first: 1, last: 3}, {first: 9, last: 9}}))
	f.Add([]byte(`<bmap version="1.3"><ImageSize>1048576</ImageSize><BlockSize>4096</BlockSize><MappedBlocksCount>2</MappedBlocksCount>` +
		`<BlockMap><Range sha1="00">0-1</Range></BlockMap></bmap>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		const size = 1 << 20
		ranges, err := parseBlockMap(data, size)
		if err != nil {
			return
		}
		var at int64
		for _, r := range ranges {
			if r.Offset < at || r.Length <= 0 || r.Offset+r.Length > size {
				t.Fatalf("%+v", r)
			}
			at = r.Offset + r.Length
		}
	})
}

// sealBlockMap puts the checksum of a block map at a place that holds zeros.
func sealBlockMap(b []byte, at int) []byte {
	copy(b[at:], fmt.Sprintf("%x", sha256.Sum256(b)))
	return b
}
