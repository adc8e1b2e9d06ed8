package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// handTemplate returns a template made by hand: one constant block, in which a
// slot of two pieces lies.
func handTemplate(golden [32]byte, size int64) *Template {
	return &Template{
		Golden: golden, GoldenBytes: size,
		Constant: []Extent{
			{Offset: 1024, Data: bytes.Repeat([]byte{0xc0}, 512)},
			{Offset: 4096, Data: make([]byte, 2048)},
			{Offset: 9216, Data: make([]byte, 1024)},
		},
		Slots: []Slot{{Path: "/data/key", Content: []Span{{4096, 2048}, {9216, 1024}}, Bytes: 2200}},
	}
}

// handKey returns 2,200 bytes that look like no other number's.
func handKey(n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "PRIVATE-%08d-%04x.", n, n*7919%65536), 100)[:2200]
}

func handOverlay(t testing.TB, tmpl *Template, n int) *Overlay {
	t.Helper()
	o, err := tmpl.Fill([][]byte{handKey(n)})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func entryKey(n int) [32]byte { return sha256.Sum256(binary.AppendVarint(nil, int64(n))) }

// newPack returns an empty pack and a template for it.
func newPack(t testing.TB) (*Pack, *Template, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lot.pack")
	golden := sha256.Sum256([]byte("golden"))
	p, err := CreatePack(path, golden, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, handTemplate(golden, 1<<20), path
}

func reopen(t testing.TB, p *Pack, path string) *Pack {
	t.Helper()
	if p != nil {
		p.Close()
	}
	p, err := OpenPack(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func mustAppend(t testing.TB, p *Pack, tmpl *Template, n int) Ref {
	t.Helper()
	ref, err := p.Append(t.Context(), entryKey(n), handOverlay(t, tmpl, n))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// wantEntry checks that the pack returns entry n.
func wantEntry(t testing.TB, read func(Ref) ([32]byte, *Overlay, error), ref Ref, n int) {
	t.Helper()
	key, o, err := read(ref)
	if err != nil {
		t.Fatalf("entry %d: %v", n, err)
	}
	if key != entryKey(n) {
		t.Fatalf("entry %d has another key", n)
	}
	image := newReader(bytes.NewReader(make([]byte, o.Template.GoldenBytes)), o.Template.GoldenBytes, o.Extents())
	content, err := ReadContent(o.Template, 0, image)
	if err != nil || !bytes.Equal(content, handKey(n)) {
		t.Fatalf("entry %d has another content: %v", n, err)
	}
}

// entries lists a pack, and counts its damaged regions.
func entries(t testing.TB, p interface {
	Entries(context.Context) iter.Seq2[Entry, error]
}) (list []Entry, damage int) {
	t.Helper()
	for e, err := range p.Entries(t.Context()) {
		switch {
		case errors.Is(err, ErrPackDamaged):
			damage++
		case err != nil:
			t.Fatal(err)
		default:
			list = append(list, e)
		}
	}
	return list, damage
}

func TestPackKeepsEntriesOfManyGoroutines(t *testing.T) {
	p, tmpl, path := newPack(t)
	const devices = 500
	refs := make([]Ref, devices)
	var wg sync.WaitGroup
	for n := range devices {
		wg.Go(func() { refs[n] = mustAppend(t, p, tmpl, n) })
	}
	wg.Wait()
	reader, err := ReadPack(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	again := reopen(t, p, path)
	for n, ref := range refs {
		wantEntry(t, again.Read, ref, n)
		wantEntry(t, reader.Read, ref, n)
	}
	list, damage := entries(t, again)
	if len(list) != devices || damage > 0 {
		t.Fatalf("%d entries, %d damaged regions", len(list), damage)
	}
	found, err := reader.Find(t.Context(), entryKey(77))
	if err != nil || found.Ref != refs[77] {
		t.Fatalf("found %v, %v", found, err)
	}
	if _, err := reader.Find(t.Context(), [32]byte{1}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("found what isn't there: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}
}

func TestPackStoresATemplateOnce(t *testing.T) {
	p, tmpl, path := newPack(t)
	first := mustAppend(t, p, tmpl, 1)
	second := mustAppend(t, p, tmpl, 2)
	p = reopen(t, p, path)
	third := mustAppend(t, p, handTemplate(tmpl.Golden, tmpl.GoldenBytes), 3) // equal, not the same
	if second.Offset != first.Offset+first.Length || third.Offset != second.Offset+second.Length {
		t.Fatalf("something lies between %v, %v and %v", first, second, third)
	}
	if size := third.Length; size > 2200+150 {
		t.Fatalf("an entry of 2200 bytes takes %d", size)
	}
	_, o, err := p.Read(third)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tmpl, o.Template); diff != "" {
		t.Fatal(diff)
	}
}

func TestPackLeavesZerosOut(t *testing.T) {
	slots := []Extent{
		{0, append([]byte("x"), make([]byte, 1023)...)},
		{5000, make([]byte, 2*maxPadding)}, // more than may be left out
		{1 << 30, []byte("end")},
	}
	b, err := appendSlots(nil, slots)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 2*maxPadding+50 {
		t.Fatalf("%d bytes", len(b))
	}
	got, err := parseSlots(b, 2<<30)
	if err != nil || !reflect.DeepEqual(got, slots) {
		t.Fatalf("not what went in: %v", err)
	}
	if _, err := parseSlots(b, 1<<30); !errors.Is(err, ErrPackDamaged) {
		t.Fatalf("an extent beyond the image: %v", err)
	}
	if _, err := appendSlots(nil, []Extent{{10, []byte("x")}, {5, []byte("y")}}); err == nil {
		t.Fatal("took an overlay that isn't sorted")
	}
}

func TestPackIsOpenForOneWriter(t *testing.T) {
	p, tmpl, path := newPack(t)
	if _, err := OpenPack(path); !errors.Is(err, ErrPackInUse) {
		t.Fatalf("opened twice: %v", err)
	}
	if _, err := CreatePack(path, tmpl.Golden, tmpl.GoldenBytes); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("made twice: %v", err)
	}
	p.Close()
	if _, err := p.Append(t.Context(), entryKey(1), handOverlay(t, tmpl, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("appended to a closed pack: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestPackRefusesWhatIsNone(t *testing.T) {
	good := (&packHeader{goldenBytes: 5}).marshal()
	newer := bytes.Clone(good)
	newer[8]++
	bent := bytes.Clone(good)
	bent[20]++
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":         {nil, ErrNotPack},
		"short":         {good[:63], ErrNotPack},
		"other file":    {bytes.Repeat([]byte("x"), 100), ErrNotPack},
		"newer version": {newer, ErrNotPack},
		"bent header":   {bent, ErrPackDamaged},
	} {
		path := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenPack(path); !errors.Is(err, c.want) {
			t.Errorf("%s: open: %v", name, err)
		}
		if _, err := ReadPack(path); !errors.Is(err, c.want) {
			t.Errorf("%s: read: %v", name, err)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, c.data) {
			t.Errorf("%s: was changed", name)
		}
	}
}

func TestPackRefusesOverlaysOfAnotherGolden(t *testing.T) {
	p, _, _ := newPack(t)
	other := handTemplate([32]byte{9}, 1<<20)
	if _, err := p.Append(t.Context(), entryKey(1), handOverlay(t, other, 1)); err == nil {
		t.Fatal("took it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Append(ctx, entryKey(1), handOverlay(t, other, 1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("didn't heed the context: %v", err)
	}
}

func TestPackDestroysKeys(t *testing.T) {
	p, tmpl, path := newPack(t)
	var refs []Ref
	for n := range 5 {
		refs = append(refs, mustAppend(t, p, tmpl, n))
	}
	if err := p.Destroy(refs[3], refs[1]); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(refs[1]); err != nil {
		t.Fatalf("again: %v", err)
	}
	data, _ := os.ReadFile(path)
	for n, ref := range refs {
		gone := n == 1 || n == 3
		if bytes.Contains(data, handKey(n)[:20]) == gone {
			t.Errorf("key %d: gone %v is wrong", n, gone)
		}
		if gone && !allZero(data[ref.Offset+recordHeaderSize:ref.Offset+ref.Length]) {
			t.Errorf("entry %d isn't zero", n)
		}
		if _, _, err := p.Read(ref); errors.Is(err, ErrDestroyed) != gone {
			t.Errorf("entry %d: %v", n, err)
		}
	}
	list, _ := entries(t, reopen(t, p, path))
	if len(list) != 5 || !list[1].Destroyed || list[0].Destroyed || list[1].Key != entryKey(1) {
		t.Fatalf("%+v", list)
	}
}

func TestPackDestroysNothingElse(t *testing.T) {
	p, tmpl, path := newPack(t)
	ref := mustAppend(t, p, tmpl, 1)
	before, _ := os.ReadFile(path)
	for _, bad := range []Ref{
		{}, {ref.Offset, ref.Length - 1}, {ref.Offset + 1, ref.Length}, {-8, 8}, {packHeaderSize, ref.Length},
		{packHeaderSize, ref.Offset - packHeaderSize}, // the template
		{1 << 40, 10}, {ref.Offset + ref.Length, 100},
	} {
		if err := p.Destroy(bad); !errors.Is(err, ErrPackDamaged) {
			t.Errorf("%v: %v", bad, err)
		}
		if _, _, err := p.Read(bad); !errors.Is(err, ErrPackDamaged) {
			t.Errorf("read %v: %v", bad, err)
		}
	}
	if after, _ := os.ReadFile(path); !slices.Equal(before, after) {
		t.Fatal("the pack was changed")
	}
}
