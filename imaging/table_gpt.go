package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Where things lie in a GPT header and its entries (UEFI specification 2.10, 5.3).
const (
	gptSignature  = "EFI PART"
	gptHeaderSize = 92
	gptEntrySize  = 128
	gptMaxEntries = 1024
)

type gptHeader struct {
	self, other int64 // sectors
	entries     int64 // first sector of the entry array
	count, size int64 // entries, bytes of each
	sum         uint32
	disk        string // the disk's GUID
}

func damagedGPT(reason string) error {
	return refuse("Repair it with gdisk (sgdisk -v shows what is wrong), so that the image boots with what is planned here.",
		"the GUID partition table is damaged: %s", reason)
}

// readGPT reads the primary table. A damaged primary is refused even where the
// backup is whole: firmware, kernel and this program might take different ones.
func readGPT(r io.ReaderAt, size, sector int64) (*Table, error) {
	primary, err := readGPTHeader(r, size, sector, 1)
	if err != nil {
		return nil, err
	}
	if primary == nil {
		if backup, err := readGPTHeader(r, size, sector, size/sector-1); err == nil && backup != nil && backup.other == 1 {
			return nil, damagedGPT("only the backup at the image's end is readable")
		}
		return nil, damagedGPT("its protective MBR has no GPT behind it")
	}
	array := make([]byte, primary.count*primary.size)
	if off := primary.entries * sector; off > size-int64(len(array)) {
		return nil, damagedGPT("its entries lie outside the image")
	} else if err := readFull(r, array, off); err != nil {
		return nil, fmt.Errorf("read the partition table: %w", err)
	}
	if crc32.ChecksumIEEE(array) != primary.sum {
		return nil, damagedGPT("the checksum of its entries is wrong")
	}
	t := &Table{Kind: TableGPT, ID: primary.disk}
	for i := range primary.count {
		p, used, err := parseGPTEntry(array[i*primary.size:], sector)
		if err != nil {
			return nil, err
		}
		if used {
			p.Number = int(i) + 1
			t.Partitions = append(t.Partitions, p)
		}
	}
	return t, nil
}

// readGPTHeader returns the header at a sector, nil if there is none.
func readGPTHeader(r io.ReaderAt, size, sector, at int64) (*gptHeader, error) {
	if at < 1 || (at+1)*sector > size {
		return nil, nil
	}
	b := make([]byte, sector)
	if err := readFull(r, b, at*sector); err != nil {
		return nil, fmt.Errorf("read the partition table: %w", err)
	}
	if string(b[:8]) != gptSignature {
		return nil, nil
	}
	le := binary.LittleEndian
	length := int64(le.Uint32(b[12:]))
	if length < gptHeaderSize || length > sector {
		return nil, damagedGPT("its header has an impossible length")
	}
	sum := le.Uint32(b[16:])
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:length]) != sum {
		return nil, damagedGPT("the checksum of its header is wrong")
	}
	h := &gptHeader{
		self: int64(le.Uint64(b[24:])), other: int64(le.Uint64(b[32:])), entries: int64(le.Uint64(b[72:])),
		count: int64(le.Uint32(b[80:])), size: int64(le.Uint32(b[84:])), sum: le.Uint32(b[88:]),
		disk: formatGUID(b[56:72]),
	}
	if h.self != at || h.entries < 0 || h.entries > size/sector || h.count > gptMaxEntries ||
		h.size < gptEntrySize || h.size > 4096 || h.size%8 != 0 {
		return nil, damagedGPT("its header is impossible")
	}
	return h, nil
}

func parseGPTEntry(b []byte, sector int64) (Partition, bool, error) {
	if bytes.Equal(b[:16], make([]byte, 16)) {
		return Partition{}, false, nil
	}
	le := binary.LittleEndian
	first, last := le.Uint64(b[32:]), le.Uint64(b[40:])
	if first > 1<<40 || last > 1<<40 || last < first {
		return Partition{}, false, damagedGPT("a partition ends before it begins")
	}
	name := make([]uint16, 0, 36)
	for i := 56; i < 128; i += 2 {
		c := le.Uint16(b[i:])
		if c == 0 {
			break
		}
		name = append(name, c)
	}
	return Partition{
		Offset: int64(first) * sector, Bytes: int64(last-first+1) * sector,
		Type: formatGUID(b[:16]), PARTUUID: formatGUID(b[16:32]), Label: string(utf16.Decode(name)),
	}, true, nil
}

// formatGUID writes a GUID whose first three fields are little endian.
func formatGUID(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
