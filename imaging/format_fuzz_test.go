package imaging

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzDeltaFormats reads files that may have been written by others: no panic,
// nothing outside the image, no more memory than the file has bytes.
func FuzzDeltaFormats(f *testing.F) {
	const size = 8 << 20
	g, tmpl := smallGolden(f, f.TempDir())
	if err := g.Truncate(size); err != nil {
		f.Fatal(err)
	}
	g.size = size
	g.info, _ = g.Stat()
	tmpl.GoldenBytes = size
	r, err := NewReader(g, handOverlay(f, tmpl, 1))
	if err != nil {
		f.Fatal(err)
	}
	blocks, err := widen(r, deltaBlock)
	if err != nil {
		f.Fatal(err)
	}
	simg, _, err := encodeSimg(g, blocks)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(simg[0].Data)
	pieces, length, err := encodeQcow2(size, "golden.img", blocks)
	if err != nil {
		f.Fatal(err)
	}
	qcow2 := make([]byte, length)
	for _, p := range pieces {
		copy(qcow2[p.Offset:], p.Data)
	}
	f.Add(qcow2)
	f.Add(bmapOf(g, blocks))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if blocks, err := parseSimg(io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), size); err == nil {
			wantInside(t, blocks, size, int64(len(data)))
		}
		if blocks, err := parseBmap(data, g, size); err == nil {
			wantInside(t, blocks, size, bmapMost*deltaBlock)
		}
		file, err := os.Create(filepath.Join(dir, "qcow2"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		if blocks, err := decodeQcow2(file, "", size); err == nil {
			wantInside(t, blocks, size, int64(len(data)))
		}
	})
}

func wantInside(t *testing.T, blocks []Extent, size, most int64) {
	t.Helper()
	var total int64
	for _, b := range blocks {
		total += int64(len(b.Data))
		if b.Offset < 0 || b.Offset+int64(len(b.Data)) > size {
			t.Fatalf("%d bytes at %d of %d", len(b.Data), b.Offset, size)
		}
	}
	if total > most {
		t.Fatalf("%d bytes, at most %d", total, most)
	}
}
