package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// superblock is what of an ext2/3/4 superblock is needed to read the file
// system (Documentation/filesystems/ext4/super.rst).
type superblock struct {
	inodes, blocks, freeBlocks      int64
	firstBlock, blockSize           int64
	blocksPerGroup, inodesPerGroup  int64
	inodeSize, descSize             int64
	compat, incompat, roCompat      uint32
	firstMetaGroup                  int64
	backupGroups                    [2]uint32
	uuid                            [16]byte
	label                           string
	checksumSeed                    uint32
	clusterSize, reservedFirstInode int64
	state                           uint16
}

// Feature bits.
const (
	compatHasJournal   = 0x0004
	compatSparseSuper2 = 0x0200

	incompatCompression = 0x0001
	incompatRecover     = 0x0004
	incompatJournalDev  = 0x0008
	incompatMetaBG      = 0x0010
	incompatExtents     = 0x0040
	incompat64Bit       = 0x0080
	incompatMMP         = 0x0100
	incompatFlexBG      = 0x0200
	incompatEAInode     = 0x0400
	incompatCsumSeed    = 0x2000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatKnown       = 0x3F7DE | incompatCompression | incompatJournalDev

	roCompatSparseSuper  = 0x0001
	roCompatQuota        = 0x0100
	roCompatBigalloc     = 0x0200
	roCompatMetadataCsum = 0x0400
	roCompatProject      = 0x2000
	roCompatExt4         = 0x0478 // huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum
)

const (
	superblockOffset = 1024
	superblockBytes  = 1024
)

// parseSuperblock reads a superblock in b of a file system that has room for
// size bytes, and refuses impossible values.
func parseSuperblock(b []byte, size int64) (*superblock, error) {
	if len(b) < superblockBytes {
		return nil, errors.New("the superblock is cut off")
	}
	le := binary.LittleEndian
	u32 := func(at int) int64 { return int64(le.Uint32(b[at:])) }
	if le.Uint16(b[0x38:]) != 0xEF53 {
		return nil, errors.New("no ext2/3/4 superblock")
	}
	if u32(0x18) > 6 || u32(0x1C) > 20 {
		return nil, errors.New("the superblock's block size is impossible")
	}
	s := &superblock{
		inodes: u32(0), blocks: u32(4), freeBlocks: u32(0x0C), firstBlock: u32(0x14), blockSize: 1024 << u32(0x18),
		blocksPerGroup: u32(0x20), inodesPerGroup: u32(0x28), state: le.Uint16(b[0x3A:]),
		inodeSize: extInodeMin, descSize: 32, reservedFirstInode: 11,
		compat: le.Uint32(b[0x5C:]), incompat: le.Uint32(b[0x60:]), roCompat: le.Uint32(b[0x64:]),
		label: strings.TrimRight(string(b[0x78:0x88]), "\x00"), firstMetaGroup: u32(0x104),
		backupGroups: [2]uint32{le.Uint32(b[0x24C:]), le.Uint32(b[0x250:])},
	}
	s.clusterSize = s.blockSize
	copy(s.uuid[:], b[0x68:])
	if u32(0x4C) > 0 { // dynamic revision
		s.inodeSize, s.reservedFirstInode = int64(le.Uint16(b[0x58:])), u32(0x54)
	}
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= u32(0x150) << 32
		s.freeBlocks |= u32(0x158) << 32
		s.descSize = int64(le.Uint16(b[0xFE:]))
	}
	if s.roCompat&roCompatBigalloc != 0 {
		s.clusterSize = 1024 << u32(0x1C)
	}
	s.checksumSeed = crc32c(^uint32(0), s.uuid[:])
	if s.incompat&incompatCsumSeed != 0 {
		s.checksumSeed = le.Uint32(b[0x270:])
	}
	return s, s.check(size)
}

func (s *superblock) check(size int64) error {
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	switch {
	case s.incompat&^incompatKnown != 0:
		return fmt.Errorf("the file system uses features that are unknown here (incompat %#x)", s.incompat)
	case s.incompat&(incompatCompression|incompatJournalDev) != 0:
		return fmt.Errorf("the file system is compressed or an external journal (incompat %#x)", s.incompat)
	case !power(s.inodeSize) || s.inodeSize < extInodeMin || s.inodeSize > s.blockSize:
		return fmt.Errorf("the superblock's inode size %d is impossible", s.inodeSize)
	case !power(s.descSize) || s.descSize < 32 || s.descSize > 1024:
		return fmt.Errorf("the superblock's descriptor size %d is impossible", s.descSize)
	case s.blocks <= 0 || s.blocks > size/s.blockSize:
		return fmt.Errorf("the file system has %d blocks of %d bytes, the partition %d bytes", s.blocks, s.blockSize, size)
	case s.blocksPerGroup == 0 || s.inodesPerGroup == 0 || s.inodes == 0 || s.firstBlock > 1:
		return errors.New("the superblock's geometry is impossible")
	}
	return nil
}

// kind names the file system as blkid does.
func (s *superblock) kind() string {
	switch {
	case s.incompat&(incompatExtents|incompat64Bit|incompatFlexBG) != 0 || s.roCompat&roCompatExt4 != 0:
		return "ext4"
	case s.compat&compatHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// hasSuper tells whether a block group begins with a copy of the superblock.
func (s *superblock) hasSuper(group int64) bool {
	switch {
	case group == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return group == int64(s.backupGroups[0]) || group == int64(s.backupGroups[1])
	case group == 1 || s.roCompat&roCompatSparseSuper == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// descriptor returns the byte at which the group's descriptor lies.
func (s *superblock) descriptor(group int64) int64 {
	perBlock := s.blockSize / s.descSize
	block := group / perBlock
	first := s.firstBlock
	if first == 0 && s.blockSize == 1024 {
		first = 1 // bigalloc
	}
	at := first + 1 + block
	if s.incompat&incompatMetaBG != 0 && block >= s.firstMetaGroup {
		meta := block * perBlock
		at = s.firstBlock + meta*s.blocksPerGroup
		if meta == 0 {
			at = first
		}
		if s.hasSuper(meta) {
			at++
		}
	}
	return at*s.blockSize + group%perBlock*s.descSize
}

// inodeSeed returns the crc's state before an inode's bytes.
func (s *superblock) inodeSeed(number int64, generation uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], uint32(number))
	binary.LittleEndian.PutUint32(b[4:], generation)
	return crc32c(s.checksumSeed, b[:])
}
