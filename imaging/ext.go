package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// extFS reads an ext2/3/4 file system. It reads only within the partition, and
// no damaged structure makes it run forever.
type extFS struct {
	r    io.ReaderAt
	base int64 // where the partition begins in r
	sb   *superblock
}

// openExt opens the file system of size bytes that begins at base.
func openExt(r io.ReaderAt, base, size int64) (*extFS, error) {
	b := make([]byte, superblockBytes)
	if size < superblockOffset+superblockBytes {
		return nil, errors.New("the partition is too small for a file system")
	}
	if err := readFull(r, b, base+superblockOffset); err != nil {
		return nil, fmt.Errorf("read the superblock: %w", err)
	}
	sb, err := parseSuperblock(b, size)
	if err != nil {
		return nil, err
	}
	return &extFS{r, base, sb}, nil
}

// read fills p from byte off of the file system.
func (f *extFS) read(p []byte, off int64) error {
	if off < 0 || off > f.sb.blocks*f.sb.blockSize-int64(len(p)) {
		return fmt.Errorf("the file system points outside itself (byte %d)", off)
	}
	return readFull(f.r, p, f.base+off)
}

func (f *extFS) block(number int64) ([]byte, error) {
	if number <= 0 || number >= f.sb.blocks {
		return nil, fmt.Errorf("the file system points outside itself (block %d)", number)
	}
	b := make([]byte, f.sb.blockSize)
	return b, f.read(b, number*f.sb.blockSize)
}

// extInode is an inode as it lies on disk.
type extInode struct {
	number int64
	offset int64 // bytes from the start of the file system
	raw    []byte
}

// Inode flags.
const (
	flagEncrypt  = 0x00000800
	flagExtents  = 0x00080000
	flagInline   = 0x10000000
	flagCasefold = 0x40000000
)

// File types in i_mode.
const (
	modeType    = 0xF000
	modeDir     = 0x4000
	modeRegular = 0x8000
	modeSymlink = 0xA000
)

const rootInode = 2

func (n *extInode) u16(at int) uint16  { return binary.LittleEndian.Uint16(n.raw[at:]) }
func (n *extInode) u32(at int) uint32  { return binary.LittleEndian.Uint32(n.raw[at:]) }
func (n *extInode) mode() uint16       { return n.u16(0) }
func (n *extInode) kind() uint16       { return n.mode() & modeType }
func (n *extInode) uid() uint32        { return uint32(n.u16(2)) | uint32(n.u16(0x78))<<16 }
func (n *extInode) gid() uint32        { return uint32(n.u16(0x18)) | uint32(n.u16(0x7A))<<16 }
func (n *extInode) flags() uint32      { return n.u32(0x20) }
func (n *extInode) generation() uint32 { return n.u32(0x64) }
func (n *extInode) size() int64        { return int64(n.u32(extSizeLow)) | int64(n.u32(extSizeHigh))<<32 }
func (n *extInode) blockArea() []byte  { return n.raw[0x28:0x64] }

func (f *extFS) inode(number int64) (*extInode, error) {
	if number < 1 || number > f.sb.inodes {
		return nil, fmt.Errorf("inode %d does not exist", number)
	}
	group, index := (number-1)/f.sb.inodesPerGroup, (number-1)%f.sb.inodesPerGroup
	desc := make([]byte, f.sb.descSize)
	if err := f.read(desc, f.sb.descriptor(group)); err != nil {
		return nil, err
	}
	table := int64(binary.LittleEndian.Uint32(desc[8:]))
	if len(desc) >= 64 {
		table |= int64(binary.LittleEndian.Uint32(desc[0x28:])) << 32
	}
	if table >= f.sb.blocks {
		return nil, fmt.Errorf("the file system points outside itself (block %d)", table)
	}
	n := &extInode{number: number, offset: table*f.sb.blockSize + index*f.sb.inodeSize, raw: make([]byte, f.sb.inodeSize)}
	return n, f.read(n.raw, n.offset)
}

// run is a piece of a file: count blocks from logical, which lie at physical.
type run struct{ logical, physical, count int64 }

// runs returns where the first blocks of a file lie, in file order; holes and
// unwritten extents are left out.
func (f *extFS) runs(n *extInode, blocks int64) ([]run, error) {
	m := mapper{fs: f, want: blocks}
	var err error
	if n.flags()&flagExtents != 0 {
		err = m.extents(n.blockArea(), 5)
	} else {
		err = m.blockMap(n.blockArea())
	}
	return m.out, err
}

type mapper struct {
	fs   *extFS
	want int64
	read int64
	out  []run
	next int64 // logical block that the block map has come to
}

func (m *mapper) block(number int64) ([]byte, error) {
	if m.read++; m.read > 2*m.want+16 { // even if each maps a single block
		return nil, errors.New("a file's block map is larger than any real one")
	}
	return m.fs.block(number)
}

func (m *mapper) add(r run) error {
	if r.physical <= 0 || r.count <= 0 || r.physical > m.fs.sb.blocks-r.count {
		return fmt.Errorf("the file system points outside itself (block %d)", r.physical)
	}
	if r.count = min(r.count, m.want-r.logical); r.count <= 0 {
		return nil
	}
	if k := len(m.out) - 1; k >= 0 {
		last := &m.out[k]
		switch end := last.logical + last.count; {
		case r.logical < end:
			return errors.New("a file's extents overlap")
		case r.logical == end && r.physical == last.physical+last.count:
			last.count += r.count
			return nil
		}
	}
	m.out = append(m.out, r)
	return nil
}

// extents walks an extent tree (Documentation/filesystems/ext4/ifork.rst).
func (m *mapper) extents(node []byte, depth int) error {
	le := binary.LittleEndian
	if len(node) < 12 || le.Uint16(node) != 0xF30A {
		return errors.New("an extent tree is damaged")
	}
	count, level := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if 12+12*count > len(node) || level > depth {
		return errors.New("an extent tree is damaged")
	}
	for i := range count {
		e := node[12+12*i:]
		logical := int64(le.Uint32(e))
		if logical >= m.want {
			return nil
		}
		if level == 0 {
			length := int64(le.Uint16(e[4:]))
			if length > 32768 {
				continue // unwritten: reads as zeros
			}
			if err := m.add(run{logical, int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32, length}); err != nil {
				return err
			}
			continue
		}
		child, err := m.block(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := m.extents(child, level-1); err != nil {
			return err
		}
	}
	return nil
}

// blockMap walks direct and indirect blocks.
func (m *mapper) blockMap(area []byte) error {
	for i := range 15 {
		if err := m.indirect(binary.LittleEndian.Uint32(area[4*i:]), max(0, i-11)); err != nil {
			return err
		}
	}
	return nil
}

func (m *mapper) indirect(number uint32, level int) error {
	per := m.fs.sb.blockSize / 4
	covers := int64(1)
	for range level {
		covers *= per
	}
	if m.next >= m.want || number == 0 {
		m.next += covers
		return nil
	}
	if level == 0 {
		m.next++
		return m.add(run{m.next - 1, int64(number), 1})
	}
	b, err := m.block(int64(number))
	if err != nil {
		return err
	}
	for i := int64(0); i < per && m.next < m.want; i++ {
		if err := m.indirect(binary.LittleEndian.Uint32(b[4*i:]), level-1); err != nil {
			return err
		}
	}
	return nil
}
