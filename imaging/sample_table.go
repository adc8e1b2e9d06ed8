package imaging

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// sampleDiskID is "KML1" in an MBR.
const sampleDiskID = 0x314C4D4B

// writeMBR writes a boot record; the layouts are those of table_mbr.go.
func writeMBR(w io.WriterAt, _, sector int64, parts []samplePart) error {
	b := make([]byte, mbrBytes)
	le := binary.LittleEndian
	le.PutUint32(b[mbrDiskID:], sampleDiskID)
	for i, p := range parts {
		putMBREntry(b, i, p.kind, p.offset/sector, p.bytes/sector)
	}
	_, err := w.WriteAt(b, 0)
	return err
}

func putMBREntry(b []byte, i int, kind byte, start, length int64) {
	le := binary.LittleEndian
	e := b[mbrEntries+i*mbrEntrySize:]
	copy(e, []byte{0, 0xFE, 0xFF, 0xFF, kind, 0xFE, 0xFF, 0xFF}) // cylinders out of range: use LBA
	le.PutUint32(e[8:], uint32(start))
	le.PutUint32(e[12:], uint32(length))
	b[mbrSignature], b[mbrSignature+1] = 0x55, 0xAA
}

// writeGPT writes a protective MBR, the table, and its backup at the end; the
// layouts are those of table_gpt.go.
func writeGPT(w io.WriterAt, size, sector int64, parts []samplePart) error {
	mbr := make([]byte, mbrBytes)
	putMBREntry(mbr, 0, mbrProtective, 1, min(size/sector-1, 0xFFFFFFFF))
	if _, err := w.WriteAt(mbr, 0); err != nil {
		return err
	}
	const count = 128
	array := make([]byte, count*gptEntrySize)
	le := binary.LittleEndian
	for i, p := range parts {
		e := array[i*gptEntrySize:]
		putGUID(e, p.guid)
		putGUID(e[16:], fmt.Sprintf("6b65796d-696c-4c00-8000-0000000001%02x", i+1))
		le.PutUint64(e[32:], uint64(p.offset/sector))
		le.PutUint64(e[40:], uint64((p.offset+p.bytes)/sector-1))
		for k, c := range utf16.Encode([]rune(p.label)) {
			le.PutUint16(e[56+2*k:], c)
		}
	}
	last, sectors := size/sector-1, (int64(len(array))+sector-1)/sector
	for _, h := range []gptHeader{
		{self: 1, other: last, entries: 2},
		{self: last, other: 1, entries: last - sectors},
	} {
		b := make([]byte, sector)
		copy(b, gptSignature+"\x00\x00\x01\x00")
		le.PutUint32(b[12:], gptHeaderSize)
		le.PutUint64(b[24:], uint64(h.self))
		le.PutUint64(b[32:], uint64(h.other))
		le.PutUint64(b[40:], uint64(2+sectors))
		le.PutUint64(b[48:], uint64(last-sectors-1))
		putGUID(b[56:], "6b65796d-696c-4c00-8000-000000000100")
		le.PutUint64(b[72:], uint64(h.entries))
		le.PutUint32(b[80:], count)
		le.PutUint32(b[84:], gptEntrySize)
		le.PutUint32(b[88:], crc32.ChecksumIEEE(array))
		le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:gptHeaderSize]))
		if _, err := w.WriteAt(b, h.self*sector); err != nil {
			return err
		}
		if _, err := w.WriteAt(array, h.entries*sector); err != nil {
			return err
		}
	}
	return nil
}

// putGUID stores a GUID, whose first three fields are little endian.
func putGUID(b []byte, guid string) {
	raw, err := hex.DecodeString(strings.ReplaceAll(guid, "-", ""))
	if err != nil || len(raw) != 16 {
		return // all callers pass constants
	}
	for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		b[i] = raw[from]
	}
}
