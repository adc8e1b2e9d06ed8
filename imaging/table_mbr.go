package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Where things lie in a master boot record (UEFI specification 2.10, 5.2.1).
const (
	mbrBytes     = 512
	mbrDiskID    = 440
	mbrEntries   = 446
	mbrSignature = 510
	mbrEntrySize = 16

	mbrProtective  = 0xEE
	mbrMaxLogicals = 256 // a chain longer than this is a loop or nonsense
)

type mbrEntry struct {
	kind          byte
	start, length int64 // sectors
}

// readMBRSector reads the four entries of the boot record at off.
func readMBRSector(r io.ReaderAt, size, off int64) (entries [4]mbrEntry, diskID uint32, err error) {
	if off < 0 || off > size-mbrBytes {
		return entries, 0, errNoTable
	}
	var b [mbrBytes]byte
	if err := readFull(r, b[:], off); err != nil {
		return entries, 0, fmt.Errorf("read the boot record: %w", err)
	}
	if b[mbrSignature] != 0x55 || b[mbrSignature+1] != 0xAA {
		return entries, 0, errNoTable
	}
	le := binary.LittleEndian
	for i := range entries {
		e := b[mbrEntries+i*mbrEntrySize:]
		if e[0] != 0 && e[0] != 0x80 {
			return entries, 0, errNoTable // a FAT boot sector has this signature too
		}
		entries[i] = mbrEntry{e[4], int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))}
	}
	return entries, le.Uint32(b[mbrDiskID:]), nil
}

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0F || kind == 0x85 }

// readMBR reads primary and logical partitions.
func readMBR(r io.ReaderAt, size, sector int64) (*Table, error) {
	entries, diskID, err := readMBRSector(r, size, 0)
	if err != nil {
		return nil, err
	}
	t := &Table{Kind: TableMBR}
	if diskID != 0 {
		t.ID = fmt.Sprintf("%08x", diskID)
	}
	add := func(number int, e mbrEntry) {
		t.Partitions = append(t.Partitions, Partition{
			Number: number, Offset: e.start * sector, Bytes: e.length * sector,
			Type: fmt.Sprintf("0x%02x", e.kind), PARTUUID: fmt.Sprintf("%08x-%02x", diskID, number),
		})
	}
	extended := -1
	for i, e := range entries {
		switch {
		case e.length == 0 || e.kind == 0 && (e.start == 0 || (e.start+e.length)*sector > size):
			// Type 0 counts, as in the kernel: genimage writes it where none is set. But
			// a boot sector's text may look like such an entry, too.
		case isExtended(e.kind):
			if extended >= 0 {
				return nil, errors.New("the partition table has two extended partitions")
			}
			extended = i
		default:
			add(i+1, e)
		}
	}
	if extended >= 0 {
		logicals, err := readLogicals(r, size, sector, entries[extended])
		if err != nil {
			return nil, err
		}
		for i, e := range logicals {
			add(5+i, e)
		}
	}
	if len(t.Partitions) == 0 {
		return nil, errNoTable
	}
	return t, nil
}

// readLogicals follows the chain of extended boot records. In each the first
// entry counts from the record itself, the second from the extended partition.
func readLogicals(r io.ReaderAt, size, sector int64, extended mbrEntry) ([]mbrEntry, error) {
	const remedy = "Repair the partition table with sfdisk."
	var out []mbrEntry
	at, seen := extended.start, map[int64]bool{}
	for {
		if seen[at] || len(seen) >= mbrMaxLogicals {
			return nil, refuse(remedy, "the chain of logical partitions runs in a circle")
		}
		seen[at] = true
		entries, _, err := readMBRSector(r, size, at*sector)
		if errors.Is(err, errNoTable) {
			if len(seen) == 1 {
				return nil, nil // an empty extended partition
			}
			return nil, refuse(remedy, "the chain of logical partitions is broken after %d", 4+len(out))
		}
		if err != nil {
			return nil, err
		}
		if e := entries[0]; e.length > 0 {
			e.start += at
			if e.start+e.length > extended.start+extended.length {
				return nil, refuse(remedy, "logical partition %d reaches out of the extended partition", 5+len(out))
			}
			out = append(out, e)
		}
		next := entries[1]
		if next.kind == 0 || next.length == 0 {
			return out, nil
		}
		if !isExtended(next.kind) || next.start >= extended.length {
			return nil, refuse(remedy, "the chain of logical partitions is broken after %d", 4+len(out))
		}
		at = extended.start + next.start
	}
}
