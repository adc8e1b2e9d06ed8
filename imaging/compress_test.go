package imaging

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var compressed = []string{"gz", "xz", "zst"}

// Chunks of any length must be what the format's own tool takes, stored ones
// also at the limits of their blocks.
func TestStoredChunks(t *testing.T) {
	for _, name := range compressed {
		g, _ := smallGolden(t, t.TempDir())
		w, err := mustFormat(t, name).Open(t.Context(), g, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		c := w.(*compressWriter).codec
		tool := program(t, map[string]string{"gz": "gzip", "xz": "xz", "zst": "zstd"}[name], name)
		var file, want []byte
		var chunks []chunk
		file = append(file, c.head()...)
		for _, n := range []int{1, 31, 32, 119, 1024, 65535, 65536, 65537, 128 << 10, 128<<10 + 1, 300000} {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(rand.N(256))
			}
			p := c.store(data)
			if other := c.store(make([]byte, n)); len(other.data) != len(p.data) || other.unpadded != p.unpadded {
				t.Errorf("%s: the length of a stored chunk of %d bytes depends on them", name, n)
			}
			back, err := c.unpack(p.data, int64(n))
			if err != nil || !bytes.Equal(back, data) {
				t.Errorf("%s: unpack %d bytes: %v", name, n, err)
			}
			bent := bytes.Clone(p.data)
			bent[len(bent)/2] ^= 1
			if _, err := c.unpack(bent, int64(n)); err == nil {
				t.Errorf("%s: took a bent chunk of %d bytes", name, n)
			}
			file, want = append(file, p.data...), append(want, data...)
			chunks = append(chunks, chunk{image: Span{0, int64(n)}, unpadded: p.unpadded, stored: true})
		}
		cmd := exec.Command(tool, "-d", "-c")
		cmd.Stdin = bytes.NewReader(append(file, c.tail(chunks)...))
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s takes them as %d bytes, %v", tool, len(got), err)
		}
		w.Close()
	}
}

func TestCompressGoesOnWhereItWas(t *testing.T) {
	for _, name := range compressed {
		g, tmpl := smallGolden(t, t.TempDir())
		dir := t.TempDir()
		format := mustFormat(t, name)
		dst := filepath.Join(dir, format.FileName("device", g.Path()))
		write := func() []byte {
			w, err := format.Open(t.Context(), g, dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(t.Context(), handOverlay(t, tmpl, 1), dst); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return mustRead(t, dst)
		}
		first := write()
		cache, _ := filepath.Glob(filepath.Join(dir, ".keymill-golden-*."+name))
		if len(cache) != 1 {
			t.Fatalf("%s keeps %v", name, cache)
		}
		before, _ := os.Stat(cache[0])
		if !bytes.Equal(write(), first) {
			t.Errorf("%s: the second run makes another file", name)
		}
		if after, _ := os.Stat(cache[0]); !os.SameFile(before, after) {
			t.Errorf("%s: golden was compressed again", name)
		}
		bent := mustRead(t, cache[0])
		bent[len(bent)/2] ^= 1
		bad := map[string][]byte{cache[0]: bent}
		if name != "xz" { // it takes long
			bad[cache[0]+".json"] = []byte(`{"Chunk":4194304,"Chunks":[-5],"Unpadded":[1]}`)
		}
		for path, content := range bad {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(write(), first) {
				t.Errorf("%s: another file after %s was damaged", name, filepath.Base(path))
			}
		}
		// The base goes; its index stays, so that keys can be found and overwritten.
		if bases, _ := filepath.Glob(filepath.Join(dir, ".keymill-base-*."+name)); len(bases) > 0 {
			t.Errorf("%s leaves %v", name, bases)
		}
	}
}

func TestCompressViewsNoStrangers(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	dir := t.TempDir()
	w, err := mustFormat(t, "zst").Open(t.Context(), g, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	dst := filepath.Join(dir, "d")
	if _, err := w.Write(t.Context(), handOverlay(t, tmpl, 1), dst); err != nil {
		t.Fatal(err)
	}
	data := mustRead(t, dst)
	at := bytes.Index(data, handKey(1)[:30])
	data[at] ^= 1
	for name, content := range map[string][]byte{"bent": data, "short": data[:len(data)-1], "empty": nil} {
		if err := os.WriteFile(dst, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.View(dst); err == nil {
			t.Errorf("viewed a file that is %s", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mustFormat(t, "gz").Open(ctx, g, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestXXH64(t *testing.T) {
	for s, want := range map[string]uint64{ // from xxHash's own sanity checks and xxhsum
		"":    0xef46db3751d8e999,
		"a":   0xd24ec4f1a98c6e5b,
		"abc": 0x44bc2cf5ad770999,
	} {
		if got := xxh64([]byte(s)); got != want {
			t.Errorf("%q: %x", s, got)
		}
	}
}
