package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
)

func TestReaderShowsTheImage(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 5)
	want := wantImage(t, g, o)
	r, err := NewReader(g, o)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		from := rand.IntN(16 << 10)
		part := make([]byte, rand.IntN(8<<10))
		if n, err := r.ReadAt(part, int64(from)); n != len(part) || err != nil || !bytes.Equal(part, want[from:from+n]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(part), from, n, err)
		}
	}
	tail := make([]byte, 100)
	if n, err := r.ReadAt(tail, r.Size()-60); n != 60 || !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %d, %v", n, err)
	}
	for _, off := range []int64{-1, r.Size(), r.Size() + 1} {
		if n, err := r.ReadAt(tail, off); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("at %d: %d, %v", off, n, err)
		}
	}
	if err := iotest.TestReader(io.NewSectionReader(r, 0, 12<<10), want[:12<<10]); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r.NewSeeker())
	if err != nil || !bytes.Equal(all, want) {
		t.Fatalf("seeker: %v", err)
	}
}

func TestStreamWritesTheImage(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 5)
	var out bytes.Buffer
	if err := Stream(t.Context(), g, o, &out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), wantImage(t, g, o)) {
		t.Fatal("another image")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Stream(ctx, g, o, io.Discard); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if err := g.Truncate(5000); err != nil {
		t.Fatal(err)
	}
	if err := Stream(t.Context(), g, o, io.Discard); err == nil {
		t.Fatal("golden was changed")
	}
}

func TestHasherResumes(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	other := *tmpl
	other.Constant = []Extent{{Offset: 0, Data: []byte("boot")}, tmpl.Constant[1]}
	h := NewHasher(g)
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			o := handOverlay(t, []*Template{tmpl, &other}[n%2], n)
			sum, err := h.Sum(t.Context(), o)
			if err != nil || sum != sha256.Sum256(wantImage(t, g, o)) {
				t.Errorf("%d: %v", n, err)
			}
		})
	}
	wg.Wait()
	if len(h.states) != 2 || h.states[tmpl].at != 4096 {
		t.Fatalf("%d states, of which the first has %d bytes", len(h.states), h.states[tmpl].at)
	}
	if _, err := h.Sum(t.Context(), handOverlay(t, handTemplate([32]byte{}, 1<<20), 1)); err == nil {
		t.Fatal("took an overlay of another golden image")
	}
}
