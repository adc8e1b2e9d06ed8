package imaging

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The pack file, version 2. All integers are little endian, all checksums are
// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
//
// The file header, 64 bytes:
//
//	 0  8  magic "KEYMPACK"
//	 8  4  version, 2; in version 1 there are no marks, and the seed is zero
//	12  4  seed, first half
//	16 32  SHA-256 of the golden image
//	48  8  length of the golden image in bytes
//	56  4  seed, second half
//	60  4  checksum of bytes 0 to 59
//
// The seed is random. The pack's UUID (RFC 9562, version 8) is made from the
// SHA-256 of the seed and golden's hash, so that packs of version 1 could get one
// without any record's moving.
//
// Records follow without gaps. A record is a header of 72 bytes and a body:
//
//	 0  4  magic "KMR1"
//	 4  4  length of what follows the record's header, in bytes
//	 8  8  offset of this record from the start of the file
//	16  8  durable mark: the file was durable up to this offset when the record was written
//	24  8  entries: offset of the record of the template; marks: of the entry; templates: zero
//	32 32  entries: the caller's key; marks: the entry's; templates: SHA-256 of the body
//	64  1  type: 1 template, 2 entry, 3 hand-out mark
//	65  2  zero
//	67  4  checksum of bytes 0 to 66
//	71  1  state: 0 live, 255 destroyed
//	72  4  checksum of the body
//	76  .. body
//
// The state is not covered by a checksum, so that destroying an entry changes
// it with one byte; the body's checksum lies behind it and is zeroed with the
// body, because it would tell something of a key. A template's body is
// Template.MarshalBinary, a mark's is JSON (markBody). An entry's body is the overlay's slots:
//
//	uvarint  number of extents, then for each of them
//	uvarint  offset of the extent, counted from the end of the one before
//	uvarint  length in bytes
//	uvarint  bytes stored; the rest of the length is zeros
//	..       the bytes stored
//
// A header that doesn't check is the torn end of the last batch, unless a
// record behind it bears a durable mark beyond it: then it is damage.
const (
	packMagic      = "KEYMPACK"
	packVersion    = 2
	packVersion1   = 1
	packHeaderSize = 64

	recordMagic      = "KMR1"
	recordHeaderSize = 72
	recordStateAt    = recordHeaderSize - 1
	recordTemplate   = 1
	recordEntry      = 2
	recordMark       = 3
	stateLive        = 0
	stateDestroyed   = 0xff

	bodyChecksumSize = 4
	// maxPadding bounds the zeros that an entry may leave out, so that a
	// damaged entry can't ask for much memory.
	maxPadding = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// ErrNotPack is returned for files that are no pack, or not of a version
	// that is known here.
	ErrNotPack = errors.New("not a keymill pack")
	// ErrPackDamaged is returned where bytes that were durable once don't
	// check any more.
	ErrPackDamaged = errors.New("the pack is damaged")
	// ErrDestroyed is returned for entries that were destroyed.
	ErrDestroyed = errors.New("the pack's entry was destroyed")
)

// packHeader is the file header.
type packHeader struct {
	version     uint32
	seed        [8]byte // zero in version 1
	golden      [32]byte
	goldenBytes int64
}

// uuid returns the pack's UUID, zero where there is no seed.
func (h *packHeader) uuid() (id [16]byte) {
	if h.seed == [8]byte{} {
		return id
	}
	sum := sha256.Sum256(append(h.seed[:], h.golden[:]...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80 // version 8
	id[8] = id[8]&0x3f | 0x80 // the variant of RFC 9562
	return id
}

func (h *packHeader) marshal() []byte {
	b := make([]byte, packHeaderSize)
	copy(b, packMagic)
	binary.LittleEndian.PutUint32(b[8:], packVersion)
	copy(b[12:], h.seed[:4])
	copy(b[16:], h.golden[:])
	binary.LittleEndian.PutUint64(b[48:], uint64(h.goldenBytes))
	copy(b[56:], h.seed[4:])
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func (h *packHeader) unmarshal(b []byte) error {
	if len(b) < packHeaderSize || string(b[:8]) != packMagic {
		return ErrNotPack
	}
	h.version = binary.LittleEndian.Uint32(b[8:])
	if h.version != packVersion && h.version != packVersion1 {
		return &Error{Remedy: "Use the version of keymill that made the pack, or a newer one.",
			Err: fmt.Errorf("%w of version %d or older, but of version %d", ErrNotPack, packVersion, h.version)}
	}
	if binary.LittleEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return fmt.Errorf("%w: its header doesn't check", ErrPackDamaged)
	}
	if h.version == packVersion {
		copy(h.seed[:4], b[12:])
		copy(h.seed[4:], b[56:])
	}
	copy(h.golden[:], b[16:])
	h.goldenBytes = int64(binary.LittleEndian.Uint64(b[48:]))
	if h.goldenBytes < 0 {
		return fmt.Errorf("%w: it says that golden has %d bytes", ErrPackDamaged, h.goldenBytes)
	}
	return nil
}

// record is a record's header.
type record struct {
	length    int64 // of what follows the header: checksum and body
	offset    int64
	durable   int64
	template  int64
	key       [32]byte
	kind      byte
	destroyed bool
}

// end returns the offset of the record that follows.
func (r *record) end() int64 { return r.offset + recordHeaderSize + r.length }

func (r *record) ref() Ref { return Ref{Offset: r.offset, Length: r.end() - r.offset} }

// appendTo appends the header; seal completes it when the batch is written.
func (r *record) appendTo(dst []byte) []byte {
	dst = append(dst, recordMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(r.length))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.offset))
	dst = binary.LittleEndian.AppendUint64(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.template))
	dst = append(dst, r.key[:]...)
	return append(dst, r.kind, 0, 0, 0, 0, 0, 0, stateLive)
}

// seal sets the durable mark and the checksums of all records in buf.
func seal(buf []byte, durable int64) {
	for len(buf) > 0 {
		length := int(binary.LittleEndian.Uint32(buf[4:]))
		binary.LittleEndian.PutUint64(buf[16:], uint64(durable))
		binary.LittleEndian.PutUint32(buf[67:], crc32.Checksum(buf[:67], castagnoli))
		body := buf[recordHeaderSize : recordHeaderSize+length]
		binary.LittleEndian.PutUint32(body, crc32.Checksum(body[bodyChecksumSize:], castagnoli))
		buf = buf[recordHeaderSize+length:]
	}
}

// unmarshal reads the header that lies at offset of a file of size bytes. It
// reports whether there is one.
func (r *record) unmarshal(b []byte, offset, size int64) bool {
	if len(b) < recordHeaderSize || string(b[:4]) != recordMagic ||
		binary.LittleEndian.Uint32(b[67:]) != crc32.Checksum(b[:67], castagnoli) {
		return false
	}
	r.length = int64(binary.LittleEndian.Uint32(b[4:]))
	r.offset = int64(binary.LittleEndian.Uint64(b[8:]))
	r.durable = int64(binary.LittleEndian.Uint64(b[16:]))
	r.template = int64(binary.LittleEndian.Uint64(b[24:]))
	copy(r.key[:], b[32:])
	r.kind = b[64]
	r.destroyed = b[recordStateAt] == stateDestroyed
	return r.offset == offset && r.length >= bodyChecksumSize && r.length <= size-offset-recordHeaderSize &&
		r.kind >= recordTemplate && r.kind <= recordMark
}

// bodyOf returns the body behind a record's header, if its checksum holds.
func bodyOf(b []byte) ([]byte, bool) {
	if len(b) < bodyChecksumSize {
		return nil, false
	}
	body := b[bodyChecksumSize:]
	return body, binary.LittleEndian.Uint32(b) == crc32.Checksum(body, castagnoli)
}

// appendSlots appends an entry's body.
func appendSlots(dst []byte, slots []Extent) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(len(slots)))
	var end int64
	padding := maxPadding
	for _, s := range slots {
		if s.Offset < end {
			return nil, fmt.Errorf("overlay is not sorted at offset %d", s.Offset)
		}
		stored := bytes.TrimRight(s.Data, "\x00")
		if len(s.Data)-len(stored) > padding {
			stored = s.Data
		}
		padding -= len(s.Data) - len(stored)
		dst = binary.AppendUvarint(dst, uint64(s.Offset-end))
		dst = binary.AppendUvarint(dst, uint64(len(s.Data)))
		dst = binary.AppendUvarint(dst, uint64(len(stored)))
		dst = append(dst, stored...)
		end = s.Offset + int64(len(s.Data))
	}
	return dst, nil
}

// parseSlots reads an entry's body of an image of size bytes. The extents
// share no memory with b.
func parseSlots(b []byte, size int64) ([]Extent, error) {
	bad := fmt.Errorf("%w: an entry's content is malformed", ErrPackDamaged)
	next := func() (int64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > uint64(size) {
			return 0, false
		}
		b = b[n:]
		return int64(v), true
	}
	count, ok := next()
	if !ok || count > int64(len(b)/3) { // an extent takes three bytes at least
		return nil, bad
	}
	slots := make([]Extent, 0, count)
	var end int64
	padding := int64(maxPadding)
	for range count {
		gap, ok1 := next()
		length, ok2 := next()
		stored, ok3 := next()
		if !ok1 || !ok2 || !ok3 || gap > size-end || length > size-end-gap || stored > length || stored > int64(len(b)) {
			return nil, bad
		}
		if padding -= length - stored; padding < 0 {
			return nil, bad
		}
		data := make([]byte, length)
		copy(data, b[:stored])
		b = b[stored:]
		slots = append(slots, Extent{Offset: end + gap, Data: data})
		end += gap + length
	}
	if len(b) > 0 {
		return nil, bad
	}
	return slots, nil
}
