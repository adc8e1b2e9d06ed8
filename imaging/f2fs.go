package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// f2fsFS finds files in an F2FS image (Linux include/linux/f2fs_fs.h and
// Documentation/filesystems/f2fs.rst). It knows no directories: inodes carry
// their name and their parent's number. It reads only within the partition.
type f2fsFS struct {
	r          io.ReaderAt
	base, size int64 // the partition in r
	features   uint32
	seed       uint32 // of inode checksums
	nat        int64  // first block of the node address table
	natBlocks  int64  // in one of its two copies
	perSegment int64  // blocks
	main       int64  // first block of the main area
	root       uint32
	bitmap     []byte            // which copy of each table block is valid
	journal    map[uint32]uint32 // newer addresses than the table's
}

// What is needed of superblock, checkpoint and nodes.
const (
	f2fsFeatureChecksum = 0x0020
	f2fsFeatureKnown    = 0x0FFF // without block devices in zones or several, compression, read-only

	f2fsUnmounted   = 0x0001 // checkpoint flags
	f2fsCompactSum  = 0x0004
	f2fsLargeNAT    = 0x0400
	f2fsMaxJournal  = 38
	f2fsPerNATBlock = 455
	f2fsNATEntry    = 9

	f2fsAddresses   = 360 // i_addr in an inode
	f2fsAddressEnd  = f2fsAddresses + 923*4
	f2fsFooter      = f2fsBlock - 24
	f2fsInlineXattr = 0x01 // i_inline
	f2fsInlineData  = 0x02
	f2fsExtraAttr   = 0x20
)

func openF2FS(r io.ReaderAt, base, size int64) (*f2fsFS, error) {
	f := &f2fsFS{r: r, base: base, size: size}
	b, err := f.block(0)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	u32 := func(at int) int64 { return int64(le.Uint32(b[1024+at:])) }
	if u32(0) != 0xF2F52010 || u32(16) != 12 || u32(20) != 9 {
		return nil, errors.New("no F2FS with blocks of 4096 bytes and segments of 2 MiB")
	}
	f.perSegment = 1 << u32(20)
	f.features = uint32(u32(2180))
	if f.features&^f2fsFeatureKnown != 0 {
		return nil, fmt.Errorf("the F2FS uses features that are unknown here (%#x)", f.features)
	}
	f.nat, f.natBlocks, f.main, f.root = u32(84), u32(60)/2*f.perSegment, u32(92), uint32(u32(96))
	if f.natBlocks <= 0 || f.nat > size/f2fsBlock-2*f.natBlocks || f.main > size/f2fsBlock {
		return nil, errors.New("the F2FS superblock is impossible")
	}
	f.seed = crc32IEEE(^uint32(0), b[1024+108:1024+124])
	return f, f.checkpoint(u32(76), u32(1664))
}

// block reads a block of the file system.
func (f *f2fsFS) block(number int64) ([]byte, error) {
	if number < 0 || number >= f.size/f2fsBlock {
		return nil, fmt.Errorf("the file system points outside itself (block %d)", number)
	}
	b := make([]byte, f2fsBlock)
	return b, readFull(f.r, b, f.base+number*f2fsBlock)
}

// checkpoint reads the newer of the two checkpoints.
func (f *f2fsFS) checkpoint(first, payload int64) error {
	le := binary.LittleEndian
	var newest []byte
	at := int64(-1)
	for _, start := range []int64{first, first + f.perSegment} {
		b, err := f.block(start)
		if err != nil {
			return err
		}
		sum := le.Uint32(b[164:])
		if sum > f2fsBlock-4 || crc32IEEE(0xF2F52010, b[:sum]) != le.Uint32(b[sum:]) {
			continue
		}
		if newest == nil || le.Uint64(b) > le.Uint64(newest) {
			newest, at = b, start
		}
	}
	if newest == nil {
		return errors.New("the F2FS has no valid checkpoint")
	}
	flags := le.Uint32(newest[132:])
	if flags&f2fsUnmounted == 0 {
		return refuse("Mount it once and unmount it, or make the image anew with mkfs.f2fs and sload.f2fs.", "the F2FS was not unmounted cleanly")
	}
	if flags&f2fsLargeNAT != 0 || payload != 0 {
		return errors.New("the F2FS has a checkpoint of a kind that is unknown here")
	}
	from := 192 + int64(le.Uint32(newest[156:]))
	to := from + int64(le.Uint32(newest[160:]))
	if from > f2fsBlock || to > f2fsBlock {
		return errors.New("the F2FS checkpoint is impossible")
	}
	f.bitmap = newest[from:to]
	return f.readJournal(at+int64(le.Uint32(newest[140:])), flags)
}

// readJournal reads the changes to the table that the checkpoint carries, in
// the summary of the segment for hot data.
func (f *f2fsFS) readJournal(block int64, flags uint32) error {
	b, err := f.block(block)
	if err != nil {
		return err
	}
	if flags&f2fsCompactSum == 0 {
		b = b[512*7:]
	}
	le := binary.LittleEndian
	f.journal = map[uint32]uint32{}
	count := int(le.Uint16(b))
	if count > f2fsMaxJournal {
		return errors.New("the F2FS journal is impossible")
	}
	for i := range count {
		e := b[2+13*i:]
		f.journal[le.Uint32(e)] = le.Uint32(e[9:])
	}
	return nil
}

// natBlock reads the valid copy of a block of the node address table.
func (f *f2fsFS) natBlock(number int64) ([]byte, error) {
	at := f.nat + number/f.perSegment*2*f.perSegment + number%f.perSegment
	if i := number / 8; i < int64(len(f.bitmap)) && f.bitmap[i]&(0x80>>(number%8)) != 0 {
		at += f.perSegment
	}
	return f.block(at)
}

// f2fsInode is an inode block.
type f2fsInode struct {
	number  uint32
	address int64 // block
	raw     []byte
}

func (n *f2fsInode) u32(at int) uint32 { return binary.LittleEndian.Uint32(n.raw[at:]) }
func (n *f2fsInode) size() int64       { return int64(binary.LittleEndian.Uint64(n.raw[f2fsSize:])) }
func (n *f2fsInode) parent() uint32    { return n.u32(84) }
func (n *f2fsInode) kind() uint16      { return binary.LittleEndian.Uint16(n.raw) & modeType }
func (n *f2fsInode) name() string      { return string(n.raw[92 : 92+min(n.u32(88), 255)]) }

// inode reads an inode whose block is at address, nil if the node there is none.
func (f *f2fsFS) inode(number, address uint32) (*f2fsInode, error) {
	if int64(address) < f.main {
		return nil, nil // free, or not written yet
	}
	b, err := f.block(int64(address))
	if err != nil {
		return nil, err
	}
	n := &f2fsInode{number, int64(address), b}
	if n.u32(f2fsFooter) != number || n.u32(f2fsFooter+4) != number {
		return nil, nil
	}
	return n, nil
}

// f2fsName is what of an inode leads to its path.
type f2fsName struct {
	name            string
	parent, address uint32
	kind            uint16
}

// names reads all inodes of the table and its journal.
func (f *f2fsFS) names() (map[uint32]f2fsName, error) {
	out := map[uint32]f2fsName{}
	add := func(number, owner, address uint32) error {
		if owner != number {
			return nil // a node of a file's block map
		}
		n, err := f.inode(number, address)
		if err == nil && n != nil {
			out[number] = f2fsName{n.name(), n.parent(), address, n.kind()}
		}
		return err
	}
	le := binary.LittleEndian
	for i := range f.natBlocks {
		b, err := f.natBlock(i)
		if err != nil {
			return nil, err
		}
		for k := range int64(f2fsPerNATBlock) {
			e := b[k*f2fsNATEntry:]
			number := uint32(i*f2fsPerNATBlock + k)
			if _, newer := f.journal[number]; newer || le.Uint32(e[5:]) == 0 {
				continue
			}
			if err := add(number, le.Uint32(e[1:]), le.Uint32(e[5:])); err != nil {
				return nil, err
			}
		}
	}
	for number, address := range f.journal {
		if err := add(number, number, address); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// find returns the inode of a regular file, fs.ErrNotExist if there is none.
func (f *f2fsFS) find(name string) (*f2fsInode, error) {
	all, err := f.names()
	if err != nil {
		return nil, err
	}
	parts := splitPath(name)
	slices.Reverse(parts)
	for number, n := range all {
		if n.kind != modeRegular || !f.isAt(all, number, parts) {
			continue
		}
		if inode, err := f.inode(number, n.address); inode != nil || err != nil {
			return inode, err
		}
	}
	return nil, fs.ErrNotExist
}

// isAt tells whether names, last first, lead from the root to the inode.
func (f *f2fsFS) isAt(all map[uint32]f2fsName, number uint32, names []string) bool {
	for _, name := range names {
		n, ok := all[number]
		if !ok || number == f.root || n.name != name {
			return false
		}
		number = n.parent
	}
	return number == f.root
}

// spans returns where the whole blocks of a file lie, in bytes of the file system.
func (f *f2fsFS) spans(n *f2fsInode) ([]Span, error) {
	inline := n.raw[3]
	switch {
	case inline&f2fsInlineData != 0 || n.size() < f2fsBlock:
		return nil, errors.New("the placeholder file is shorter than 4096 bytes")
	case n.raw[2]&0x44 != 0 || n.u32(80)&0x4 != 0:
		return nil, errors.New("the placeholder file is encrypted, sealed or compressed")
	}
	at := f2fsAddresses
	if inline&f2fsExtraAttr != 0 {
		at += int(binary.LittleEndian.Uint16(n.raw[f2fsAddresses:])) &^ 3
	}
	end := f2fsAddressEnd
	if inline&f2fsInlineXattr != 0 {
		end -= 50 * 4 // more where i_inline_xattr_size says so; those are zero or data
	}
	var out []Span
	for blocks := n.size() / f2fsBlock; blocks > 0 && at < end; blocks, at = blocks-1, at+4 {
		address := int64(n.u32(at))
		if address < f.main || address >= f.size/f2fsBlock {
			return nil, errors.New("the placeholder file has holes")
		}
		if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == address*f2fsBlock {
			out[k].Length += f2fsBlock
		} else {
			out = append(out, Span{address * f2fsBlock, f2fsBlock})
		}
	}
	return out, nil
}

// slot describes how the file is patched: content in its blocks, the length in
// its inode. Blocks beyond the length are allowed, as after fallocate.
func (f *f2fsFS) slot(n *f2fsInode) (Slot, error) {
	spans, err := f.spans(n)
	inode := &InodeSlot{Offset: n.address * f2fsBlock, Size: f2fsBlock, Kind: InodeF2FS, Image: n.raw}
	inode.Checksum = f.features&f2fsFeatureChecksum != 0 && n.raw[3]&f2fsExtraAttr != 0
	if inode.Checksum {
		inode.Seed = crc32IEEE(crc32IEEE(f.seed, n.raw[f2fsFooter+4:f2fsFooter+8]), n.raw[68:72])
		clear(inode.Image[f2fsChecksum : f2fsChecksum+4])
	}
	inode.setLength(inode.Image, 0)
	return Slot{Content: spans, Inode: inode}, err
}
