package imaging

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// templateMagic begins an encoded template; its last byte is the version.
const templateMagic = "KMTPL\x00\x01"

// MarshalBinary encodes the template. All integers are little endian:
//
//	7  magic "KMTPL", 0, version 1
//	32 SHA-256 of golden
//	8  length of golden
//	4  number of constant extents, each: 8 offset, 4 length, data
//	4  number of slots, each:
//	   2 length of the path, path; 8 Bytes; 8 Shortest
//	   4 number of content spans, each: 8 offset, 8 length
//	   1 kind of the inode, 0 for none; if any:
//	     1 flags (1 checksum, 2 inline), 4 seed, 8 offset, 4 size, image
func (t *Template) MarshalBinary() ([]byte, error) {
	le := binary.LittleEndian
	b := append([]byte(templateMagic), t.Golden[:]...)
	b = le.AppendUint64(b, uint64(t.GoldenBytes))
	b = le.AppendUint32(b, uint32(len(t.Constant)))
	for _, e := range t.Constant {
		b = le.AppendUint64(b, uint64(e.Offset))
		b = le.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
	}
	b = le.AppendUint32(b, uint32(len(t.Slots)))
	for i := range t.Slots {
		s := &t.Slots[i]
		if len(s.Path) > math.MaxUint16 {
			return nil, errors.New("a template's path is too long")
		}
		b = le.AppendUint16(b, uint16(len(s.Path)))
		b = append(b, s.Path...)
		b = le.AppendUint64(b, uint64(s.Bytes))
		b = le.AppendUint64(b, uint64(s.Shortest))
		b = le.AppendUint32(b, uint32(len(s.Content)))
		for _, span := range s.Content {
			b = le.AppendUint64(b, uint64(span.Offset))
			b = le.AppendUint64(b, uint64(span.Length))
		}
		b = appendInode(b, s.Inode)
	}
	return b, nil
}

func appendInode(b []byte, s *InodeSlot) []byte {
	if s == nil {
		return append(b, 0)
	}
	var flags byte
	if s.Checksum {
		flags |= 1
	}
	if s.Inline {
		flags |= 2
	}
	le := binary.LittleEndian
	b = append(b, byte(s.Kind), flags)
	b = le.AppendUint32(b, s.Seed)
	b = le.AppendUint64(b, uint64(s.Offset))
	b = le.AppendUint32(b, uint32(s.Size))
	return append(b, s.Image...)
}

// UnmarshalTemplate decodes what MarshalBinary made. It refuses data that is
// cut off, has bytes left over, or describes an impossible template.
func UnmarshalTemplate(data []byte) (*Template, error) {
	d := decoder{rest: data}
	if string(d.bytes(uint64(len(templateMagic)))) != templateMagic {
		return nil, errors.New("not a template of this version")
	}
	t := &Template{}
	copy(t.Golden[:], d.bytes(sha256.Size))
	t.GoldenBytes = d.int64()
	for n := d.count(12); n > 0; n-- {
		e := Extent{Offset: d.int64()}
		e.Data = append(e.Data, d.bytes(uint64(d.uint32()))...)
		t.Constant = append(t.Constant, e)
	}
	for n := d.count(23); n > 0; n-- {
		s := Slot{}
		s.Path = string(d.bytes(uint64(d.uint16())))
		s.Bytes, s.Shortest = d.int64(), d.int64()
		for m := d.count(16); m > 0; m-- {
			s.Content = append(s.Content, Span{d.int64(), d.int64()})
		}
		s.Inode = d.inode()
		t.Slots = append(t.Slots, s)
	}
	if d.short || len(d.rest) > 0 {
		return nil, errors.New("the template has the wrong length")
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("the template is impossible: %w", err)
	}
	return t, nil
}

// decoder reads little endian values; after the end it reads zeros.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.short, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) fixed(n uint64) []byte {
	if b := d.bytes(n); b != nil {
		return b
	}
	return make([]byte, n)
}

func (d *decoder) uint16() uint16 { return binary.LittleEndian.Uint16(d.fixed(2)) }
func (d *decoder) uint32() uint32 { return binary.LittleEndian.Uint32(d.fixed(4)) }
func (d *decoder) int64() int64   { return int64(binary.LittleEndian.Uint64(d.fixed(8))) }

// count reads how many items follow, each of which takes size bytes or more.
func (d *decoder) count(size int) uint32 {
	n := d.uint32()
	if uint64(n)*uint64(size) > uint64(len(d.rest)) {
		d.short, d.rest = true, nil
		return 0
	}
	return n
}

func (d *decoder) inode() *InodeSlot {
	kind := d.fixed(1)[0]
	if kind == 0 {
		return nil
	}
	flags := d.fixed(1)[0]
	s := &InodeSlot{Kind: InodeKind(kind), Checksum: flags&1 != 0, Inline: flags&2 != 0}
	s.Seed = d.uint32()
	s.Offset = d.int64()
	size := d.uint32()
	s.Size = int(size)
	s.Image = append(s.Image, d.bytes(uint64(size))...)
	return s
}

// check refuses a template that would read or write outside the image, or that
// contradicts itself.
func (t *Template) check() error {
	if t.GoldenBytes < 0 {
		return errors.New("golden has a negative length")
	}
	end := int64(0)
	for _, e := range t.Constant {
		if e.Offset < end || len(e.Data) == 0 || e.Offset > t.GoldenBytes-int64(len(e.Data)) {
			return fmt.Errorf("the extent at %d overlaps or lies outside", e.Offset)
		}
		end = e.Offset + int64(len(e.Data))
	}
	var used []Span
	for i := range t.Slots {
		spans, err := t.Slots[i].check(t.GoldenBytes)
		if err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
		used = append(used, spans...)
	}
	return disjoint(used)
}

// check returns the spans that the slot patches.
func (s *Slot) check(image int64) ([]Span, error) {
	room := int64(0)
	for _, span := range s.Content {
		if span.Length <= 0 || span.Length > image || span.Offset < 0 || span.Offset > image-span.Length {
			return nil, fmt.Errorf("the span at %d lies outside", span.Offset)
		}
		if room += span.Length; room > image {
			return nil, errors.New("the spans are longer than the image")
		}
	}
	if s.Inode == nil {
		if s.Bytes < 0 || s.Bytes > room {
			return nil, fmt.Errorf("%d bytes of content in %d bytes of room", s.Bytes, room)
		}
		return s.Content, nil
	}
	if s.Shortest < 0 || s.Shortest > room {
		return nil, fmt.Errorf("at least %d bytes of content in %d bytes of room", s.Shortest, room)
	}
	if err := s.Inode.check(image); err != nil {
		return nil, err
	}
	whole := Span{s.Inode.Offset, int64(s.Inode.Size)}
	if !s.Inode.Inline {
		return append([]Span{whole}, s.Content...), nil
	}
	for _, span := range s.Content {
		if span.Offset < whole.Offset || span.Offset+span.Length > whole.Offset+whole.Length {
			return nil, fmt.Errorf("the inline span at %d lies outside the inode", span.Offset)
		}
	}
	if err := disjoint(s.Content); err != nil {
		return nil, err
	}
	return []Span{whole}, nil
}

func disjoint(spans []Span) error {
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b Span) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(sorted); i++ {
		if sorted[i].Offset < sorted[i-1].Offset+sorted[i-1].Length {
			return fmt.Errorf("two slots overlap at %d", sorted[i].Offset)
		}
	}
	return nil
}
