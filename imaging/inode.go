package imaging

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// InodeKind says in which format a file's length is stored.
type InodeKind uint8

// The kinds.
const (
	InodeExt  InodeKind = 1 // ext2/3/4 inode: i_size, i_checksum
	InodeFAT  InodeKind = 2 // FAT directory entry of 32 bytes: DIR_FileSize
	InodeF2FS InodeKind = 3 // F2FS inode block: i_size, i_inode_checksum
)

// InodeSlot is where a file's length and checksum lie, and what is needed to
// compute the checksum.
type InodeSlot struct {
	// Offset of the inode in the image, and the inode's size on disk, in bytes.
	Offset int64
	Size   int
	Kind   InodeKind
	// Image is the inode as the template leaves it, Size bytes, with length,
	// checksum and inline content zero.
	Image []byte
	// Checksum says that the inode carries a crc; Seed is the crc's state
	// after the file system's seed, the inode's number and its generation.
	Checksum bool
	Seed     uint32
	// Inline says that the content's spans lie within the inode.
	Inline bool
}

// Where things lie in an ext4 inode (Documentation/filesystems/ext4/inodes.rst).
const (
	extInodeMin     = 128
	extSizeLow      = 0x04
	extSizeHigh     = 0x6C
	extChecksumLow  = 0x7C
	extExtraSize    = 0x80
	extChecksumHigh = 0x82
)

// Where things lie in an F2FS inode block (include/linux/f2fs_fs.h) and in a
// FAT directory entry (Microsoft's fatgen103).
const (
	f2fsSize     = 16
	f2fsChecksum = 368
	f2fsBlock    = 4096
	fatSize      = 28
	fatEntry     = 32
)

var inodeCRC = crc32.MakeTable(crc32.Castagnoli)

// crc32IEEE continues a crc as F2FS computes it, without complements.
func crc32IEEE(state uint32, p []byte) uint32 {
	return ^crc32.Update(^state, crc32.IEEETable, p)
}

// crc32c continues a crc as ext4 computes it: without the complement that
// hash/crc32 applies at both ends.
func crc32c(state uint32, p []byte) uint32 {
	return ^crc32.Update(^state, inodeCRC, p)
}

func (s *InodeSlot) check(image int64) error {
	small := map[InodeKind]int{InodeExt: extInodeMin, InodeFAT: fatEntry, InodeF2FS: f2fsBlock}[s.Kind]
	switch {
	case small == 0:
		return fmt.Errorf("inode kind %d is unknown", s.Kind)
	case s.Size < small || s.Size > 65536:
		return fmt.Errorf("inode size %d is impossible", s.Size)
	case len(s.Image) != s.Size:
		return fmt.Errorf("inode image has %d bytes, not %d", len(s.Image), s.Size)
	case s.Offset < 0 || s.Offset > image-int64(s.Size):
		return fmt.Errorf("inode at %d lies outside the image", s.Offset)
	case s.Inline && s.Kind != InodeExt:
		return fmt.Errorf("inline content in an inode of kind %d is unknown", s.Kind)
	}
	return nil
}

// highChecksum tells whether the upper half of an ext4 checksum has room.
func (s *InodeSlot) highChecksum() bool {
	return s.Size > extInodeMin && binary.LittleEndian.Uint16(s.Image[extExtraSize:]) >= 4
}

// length reads the file's length from the inode in b, which has Size bytes.
func (s *InodeSlot) length(b []byte) int64 {
	switch s.Kind {
	case InodeFAT:
		return int64(binary.LittleEndian.Uint32(b[fatSize:]))
	case InodeF2FS:
		return int64(binary.LittleEndian.Uint64(b[f2fsSize:]))
	default:
		return int64(binary.LittleEndian.Uint32(b[extSizeLow:])) | int64(binary.LittleEndian.Uint32(b[extSizeHigh:]))<<32
	}
}

// setLength writes length n into the inode in b.
func (s *InodeSlot) setLength(b []byte, n int64) {
	switch s.Kind {
	case InodeFAT:
		binary.LittleEndian.PutUint32(b[fatSize:], uint32(n))
	case InodeF2FS:
		binary.LittleEndian.PutUint64(b[f2fsSize:], uint64(n))
	default:
		binary.LittleEndian.PutUint32(b[extSizeLow:], uint32(n))
		binary.LittleEndian.PutUint32(b[extSizeHigh:], uint32(n>>32))
	}
}

// setChecksum computes the checksum of the inode in b, whose checksum fields
// are zero, and stores it.
func (s *InodeSlot) setChecksum(b []byte) {
	if !s.Checksum {
		return
	}
	switch s.Kind {
	case InodeExt:
		crc := crc32c(s.Seed, b)
		binary.LittleEndian.PutUint16(b[extChecksumLow:], uint16(crc))
		if s.highChecksum() {
			binary.LittleEndian.PutUint16(b[extChecksumHigh:], uint16(crc>>16))
		}
	case InodeF2FS:
		binary.LittleEndian.PutUint32(b[f2fsChecksum:], crc32IEEE(s.Seed, b))
	}
}

// patches returns the parts of the inode in b that differ between devices.
func (s *InodeSlot) patches(b []byte) []Extent {
	part := func(from, to int) Extent { return Extent{s.Offset + int64(from), b[from:to:to]} }
	switch {
	case s.Inline:
		return []Extent{part(0, s.Size)}
	case s.Kind == InodeFAT:
		return []Extent{part(fatSize, fatSize+4)}
	case s.Kind == InodeF2FS && s.Checksum:
		return []Extent{part(f2fsSize, f2fsSize+8), part(f2fsChecksum, f2fsChecksum+4)}
	case s.Kind == InodeF2FS:
		return []Extent{part(f2fsSize, f2fsSize+8)}
	case !s.Checksum:
		return []Extent{part(extSizeLow, extSizeLow+4)}
	case s.highChecksum():
		return []Extent{part(extSizeLow, extSizeLow+4), part(extChecksumLow, extChecksumHigh+2)}
	default:
		return []Extent{part(extSizeLow, extSizeLow+4), part(extChecksumLow, extChecksumLow+2)}
	}
}
