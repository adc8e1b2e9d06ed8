package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
)

// Read returns an entry's key and overlay after it has compared all
// checksums. The error is ErrDestroyed, ErrPackDamaged, or one of the disk.
func (p *packFile) Read(ref Ref) (key [32]byte, o *Overlay, err error) {
	r, err := p.entryAt(ref)
	if err != nil {
		return key, nil, fmt.Errorf("read from pack: %w", err)
	}
	if r.destroyed {
		return key, nil, fmt.Errorf("read from pack: %w", ErrDestroyed)
	}
	b := make([]byte, r.length)
	defer clear(b)
	if _, err := p.f.ReadAt(b, r.offset+recordHeaderSize); err != nil {
		return key, nil, fmt.Errorf("read from pack: %w", err)
	}
	body, ok := bodyOf(b)
	if !ok {
		return key, nil, fmt.Errorf("%w: the entry at offset %d doesn't check", ErrPackDamaged, r.offset)
	}
	t, err := p.template(r.template)
	if err != nil {
		return key, nil, fmt.Errorf("read from pack: %w", err)
	}
	slots, err := parseSlots(body, p.header.goldenBytes)
	if err != nil {
		return key, nil, fmt.Errorf("read from pack: %w", err)
	}
	return r.key, &Overlay{Template: t, Slots: slots}, nil
}

// Template returns the template of an entry, which may be destroyed: it says where
// in the device's image the key lies.
func (p *packFile) Template(ref Ref) (*Template, error) {
	r, err := p.entryAt(ref)
	if err != nil {
		return nil, fmt.Errorf("read from pack: %w", err)
	}
	t, err := p.template(r.template)
	if err != nil {
		return nil, fmt.Errorf("read from pack: %w", err)
	}
	return t, nil
}

// entryAt reads the header of an entry.
func (p *packFile) entryAt(ref Ref) (record, error) {
	r, err := p.recordAt(ref.Offset)
	if err != nil {
		return r, err
	}
	if r.kind != recordEntry || r.ref() != ref {
		return r, fmt.Errorf("%w: no entry of %d bytes at offset %d", ErrPackDamaged, ref.Length, ref.Offset)
	}
	return r, nil
}

func (p *packFile) recordAt(offset int64) (record, error) {
	var r record
	size, err := p.size()
	if err != nil {
		return r, err
	}
	b := make([]byte, recordHeaderSize)
	if offset >= packHeaderSize && offset <= size-recordHeaderSize {
		if _, err := p.f.ReadAt(b, offset); err != nil {
			return r, err
		}
	}
	if !r.unmarshal(b, offset, size) {
		return r, fmt.Errorf("%w: no record at offset %d", ErrPackDamaged, offset)
	}
	return r, nil
}

// template returns the template of a record, read once.
func (p *packFile) template(offset int64) (*Template, error) {
	p.templatesMu.Lock()
	defer p.templatesMu.Unlock()
	if t := p.templates[offset]; t != nil {
		return t, nil
	}
	r, err := p.recordAt(offset)
	if err != nil {
		return nil, err
	}
	b := make([]byte, r.length)
	if _, err := p.f.ReadAt(b, offset+recordHeaderSize); err != nil {
		return nil, err
	}
	body, ok := bodyOf(b)
	if !ok || r.kind != recordTemplate {
		return nil, fmt.Errorf("%w: the template at offset %d doesn't check", ErrPackDamaged, offset)
	}
	t, err := UnmarshalTemplate(body)
	if err != nil {
		return nil, fmt.Errorf("%w: the template at offset %d: %w", ErrPackDamaged, offset, err)
	}
	if t.Golden != p.header.golden || t.GoldenBytes != p.header.goldenBytes {
		return nil, fmt.Errorf("%w: the template at offset %d belongs to another golden image", ErrPackDamaged, offset)
	}
	p.templates[offset] = t
	return t, nil
}

func putLength(header []byte, length int64) {
	binary.LittleEndian.PutUint32(header[4:], uint32(length))
}

// zeros is what zeros are compared with and written from; nothing changes it.
var zeros [64 << 10]byte

// allZero reports whether b holds nothing but zeros.
func allZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// zero overwrites n bytes at offset with zeros.
func zero(f *os.File, offset, n int64) error {
	for n > 0 {
		part := zeros[:min(n, int64(len(zeros)))]
		if _, err := f.WriteAt(part, offset); err != nil {
			return err
		}
		offset += int64(len(part))
		n -= int64(len(part))
	}
	return nil
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
