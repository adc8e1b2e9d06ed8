package imaging

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzPack reads and opens what may be a pack, and what is one around an entry
// that may be none: no panic, nothing outside the file, only errors that
// callers expect, and never a longer file.
func FuzzPack(f *testing.F) {
	p, tmpl, path := newPack(f)
	var refs []Ref
	for n := range 3 {
		refs = append(refs, mustAppend(f, p, tmpl, n))
	}
	if err := p.Destroy(refs[1]); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-100])
	f.Add(whole[refs[2].Offset+recordHeaderSize+bodyChecksumSize:])
	f.Add([]byte(packMagic))
	f.Add([]byte{1, 0, 10, 1, 'x'})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 1, 'x'})
	prefix := whole[:refs[1].Offset]
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		tryPack(t, dir, data)
		b := newBatch(int64(len(prefix)))
		if _, err := b.add(record{kind: recordEntry, template: packHeaderSize}, func(dst []byte) ([]byte, error) {
			return append(dst, data...), nil
		}); err != nil {
			t.Fatal(err)
		}
		seal(b.buf, b.base)
		if n := tryPack(t, dir, append(prefix[:len(prefix):len(prefix)], b.buf...)); n != 2 {
			t.Fatalf("%d entries in a pack of 2", n)
		}
	})
}

// tryPack does with a file all that a pack can do, and returns how many
// entries it found.
func tryPack(t *testing.T, dir string, data []byte) int {
	path := filepath.Join(dir, "pack")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := ReadPack(path)
	if err != nil {
		wantPackError(t, err)
		return 0
	}
	list, _ := entries(t, r)
	for _, e := range list {
		_, o, err := r.Read(e.Ref)
		wantPackError(t, err)
		if err == nil {
			o.Extents()
		}
	}
	r.Close()
	p, err := OpenPack(path)
	if err != nil {
		t.Fatalf("read, but not opened: %v", err)
	}
	defer p.Close()
	reread, _ := entries(t, p)
	if len(reread) != len(list) {
		t.Fatalf("%d entries, %d after opening", len(list), len(reread))
	}
	if info, _ := os.Stat(path); info.Size() > int64(len(data)) {
		t.Fatalf("grew from %d to %d bytes", len(data), info.Size())
	}
	return len(list)
}

func wantPackError(t *testing.T, err error) {
	if err != nil && !errors.Is(err, ErrNotPack) && !errors.Is(err, ErrPackDamaged) && !errors.Is(err, ErrDestroyed) {
		t.Fatalf("unexpected: %v", err)
	}
}
