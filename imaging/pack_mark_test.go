package imaging

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"iter"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func marks(t *testing.T, p interface {
	Marks(context.Context) iter.Seq2[Mark, error]
}) (out []Mark) {
	t.Helper()
	for m, err := range p.Marks(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func TestMarksAreKept(t *testing.T) {
	p, tmpl, path := newPack(t)
	first, second := mustAppend(t, p, tmpl, 1), mustAppend(t, p, tmpl, 2)
	at := time.UnixMicro(1_800_000_000_123_456).UTC()
	want := []Mark{
		{Key: entryKey(1), Entry: first, Unit: 1, Marker: [16]byte{1, 2, 3}, Time: at, Recipient: "usb 1-1.2, 30 GB \"SD\""},
		{Key: entryKey(2), Entry: second, Unit: 1, Time: at},
	}
	for _, m := range want {
		if err := p.Mark(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Destroy(first); err != nil {
		t.Fatal(err)
	}
	again := Mark{Key: entryKey(1), Entry: first, Unit: 2, Time: at, Recipient: "after its destruction"}
	if err := p.Mark(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	want = append(want, again)
	if diff := cmp.Diff(want, marks(t, p)); diff != "" {
		t.Error(diff)
	}
	p = reopen(t, p, path)
	if diff := cmp.Diff(want, marks(t, p)); diff != "" {
		t.Error("opened again:", diff)
	}
	list, _ := entries(t, p)
	if len(list) != 2 {
		t.Errorf("%d entries, marks are none", len(list))
	}
	if err := p.Mark(t.Context(), Mark{Key: entryKey(3), Entry: second}); err == nil {
		t.Error("marked another device's entry")
	}
	if err := p.Mark(t.Context(), Mark{Key: entryKey(3), Entry: Ref{second.Offset + 1, second.Length}}); !errors.Is(err, ErrPackDamaged) {
		t.Errorf("marked what is no entry: %v", err)
	}
}

// A pack of the first version keeps its entries where they are, and gets a UUID.
func TestOldPackGetsUUID(t *testing.T) {
	p, tmpl, path := newPack(t)
	if p.UUID() == [16]byte{} {
		t.Fatal("a new pack has no UUID")
	}
	ref := mustAppend(t, p, tmpl, 1)
	p.Close()
	head := make([]byte, packHeaderSize)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(head[8:], packVersion1)
	clear(head[12:16])
	clear(head[56:60])
	binary.LittleEndian.PutUint32(head[60:], crc32.Checksum(head[:60], castagnoli))
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	r, err := ReadPack(path)
	if err != nil {
		t.Fatal(err)
	}
	if r.UUID() != [16]byte{} {
		t.Error("reading gave it a UUID")
	}
	r.Close()
	p = reopen(t, nil, path)
	id := p.UUID()
	if id == [16]byte{} || id[6]>>4 != 8 || id[8]>>6 != 2 {
		t.Errorf("no UUID of version 8: %x", id)
	}
	if _, _, err := p.Read(ref); err != nil {
		t.Error(err)
	}
	if p = reopen(t, p, path); p.UUID() != id {
		t.Error("opened again, it has another UUID")
	}
}

// Whatever happens to the header, the keys can be read and destroyed.
func TestDamagedHeader(t *testing.T) {
	for at := range int64(packHeaderSize) {
		if at >= 8 && at < 12 {
			continue // looks like another version, which is refused
		}
		p, tmpl, path := newPack(t)
		ref := mustAppend(t, p, tmpl, 1)
		p.Close()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xfe}, at); err != nil {
			t.Fatal(err)
		}
		f.Close()
		p = reopen(t, nil, path)
		if !p.HeaderDamaged() || p.UUID() != [16]byte{} {
			t.Fatalf("byte %d: damage isn't seen", at)
		}
		if _, _, err := p.Read(ref); err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if err := p.Destroy(ref); err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
}
