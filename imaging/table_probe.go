package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// probeBytes is how much of a partition's start says what file system it holds.
const probeBytes = 0x10000 + 4096

// magic is a file system's signature at an offset of the partition.
type magic struct {
	name   string
	offset int
	bytes  string
}

// magics has the file systems that carry a fixed signature, from the headers
// that define them. ext, FAT and F2FS are told apart further in probe.
var magics = []magic{
	{"luks", 0, "LUKS\xba\xbe"},
	{"squashfs", 0, "hsqs"},
	{"xfs", 0, "XFSB"},
	{"ubi", 0, "UBI#"},
	{"ubifs", 0, "\x31\x18\x10\x06"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"ext", 1024 + 56, "\x53\xef"},
	{"swap", 4086, "SWAPSPACE2"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"exfat", 3, "EXFAT   "},
	{"ntfs", 3, "NTFS    "},
}

// probe fills in what file system the partition holds. What cannot be read is
// unknown.
func probe(r io.ReaderAt, p *Partition) {
	b := make([]byte, min(probeBytes, max(p.Bytes, 0)))
	if n, _ := r.ReadAt(b, p.Offset); n < len(b) {
		b = b[:n]
	}
	for _, m := range magics {
		if len(b) >= m.offset+len(m.bytes) && string(b[m.offset:m.offset+len(m.bytes)]) == m.bytes {
			p.FileSystem = m.name
			break
		}
	}
	switch p.FileSystem {
	case "ext":
		p.FileSystem = ""
		s, err := parseSuperblock(b[min(1024, len(b)):], p.Bytes)
		if p.extFlaw = err; err == nil {
			p.FileSystem, p.FSLabel, p.FSUUID = s.kind(), s.label, formatUUID(s.uuid[:])
		}
	case "":
		probeFAT(b, p)
	}
}

// probeFAT knows FAT by its boot sector's sanity and the type's name, which
// mkfs.vfat always writes.
func probeFAT(b []byte, p *Partition) {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xAA {
		return
	}
	var label, id int
	switch {
	case bytes.HasPrefix(b[82:], []byte("FAT32")):
		label, id = 71, 67
	case bytes.HasPrefix(b[54:], []byte("FAT1")):
		label, id = 43, 39
	default:
		return
	}
	p.FileSystem = "vfat"
	if p.FSLabel = strings.TrimRight(string(b[label:label+11]), " \x00"); p.FSLabel == "NO NAME" {
		p.FSLabel = ""
	}
	serial := binary.LittleEndian.Uint32(b[id:])
	p.FSUUID = fmt.Sprintf("%04X-%04X", serial>>16, serial&0xffff)
}

// formatUUID writes a UUID in network order.
func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
