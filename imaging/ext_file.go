package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// content reads a whole file of at most limit bytes.
func (f *extFS) content(n *extInode, limit int64) ([]byte, error) {
	size := n.size()
	if limit = min(limit, f.sb.blocks*f.sb.blockSize); size < 0 || size > limit {
		return nil, fmt.Errorf("inode %d has %d bytes, more than %d", n.number, size, limit)
	}
	if n.flags()&flagInline != 0 || n.kind() == modeSymlink && size < 60 && n.flags()&flagExtents == 0 {
		return f.inlineContent(n, size)
	}
	blocks := (size + f.sb.blockSize - 1) / f.sb.blockSize
	runs, err := f.runs(n, blocks)
	if err != nil {
		return nil, err
	}
	out := make([]byte, size)
	for _, r := range runs {
		from := r.logical * f.sb.blockSize
		to := min(from+r.count*f.sb.blockSize, size)
		if err := f.read(out[from:to], r.physical*f.sb.blockSize); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *extFS) inlineContent(n *extInode, size int64) ([]byte, error) {
	spans, err := inlineSpans(n)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, s := range spans {
		out = append(out, n.raw[s.Offset:s.Offset+s.Length]...)
	}
	if int64(len(out)) < size {
		return nil, fmt.Errorf("inode %d has less inline data than its length says", n.number)
	}
	return out[:size], nil
}

// Where extended attributes lie in an inode (Documentation/filesystems/ext4/attributes.rst).
const (
	xattrMagic       = 0xEA020000
	xattrEntryBytes  = 16
	xattrIndexSystem = 7
)

// bodyAttrs returns the entries of the attributes that lie in the inode itself,
// each with its name, and where the inode's bytes begin that their values'
// offsets count from.
func bodyAttrs(n *extInode) (entries [][]byte, first int, err error) {
	if len(n.raw) <= extInodeMin {
		return nil, 0, nil
	}
	le := binary.LittleEndian
	at := extInodeMin + int(n.u16(extExtraSize))
	if at+4 > len(n.raw) || le.Uint32(n.raw[at:]) != xattrMagic {
		return nil, 0, nil
	}
	first = at + 4
	for at = first; at+xattrEntryBytes <= len(n.raw) && le.Uint32(n.raw[at:]) != 0; {
		name := int(n.raw[at])
		if at+xattrEntryBytes+name > len(n.raw) {
			return nil, 0, errors.New("an inode's attributes are damaged")
		}
		entries = append(entries, n.raw[at:at+xattrEntryBytes+name])
		at += xattrEntryBytes + (name+3)&^3
	}
	return entries, first, nil
}

// inlineSpans returns where inline content lies, as offsets within the inode:
// i_block first, then the value of the attribute system.data.
func inlineSpans(n *extInode) ([]Span, error) {
	spans := []Span{{0x28, 60}}
	entries, first, err := bodyAttrs(n)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	for _, e := range entries {
		if e[1] != xattrIndexSystem || string(e[xattrEntryBytes:]) != "data" {
			continue
		}
		offset, length := int(le.Uint16(e[2:])), int(le.Uint32(e[8:]))
		if length < 0 || length > len(n.raw) || first+offset+length > len(n.raw) {
			return nil, errors.New("an inode's inline data is damaged")
		}
		if length > 0 {
			spans = append(spans, Span{int64(first + offset), int64(length)})
		}
		return spans, nil
	}
	return spans, nil
}

// attrsElsewhere reports whether some of the inode's attributes lie in a block or
// in inodes of their own.
func attrsElsewhere(n *extInode) (bool, error) {
	if n.u32(0x68) != 0 || n.u16(0x76) != 0 { // i_file_acl
		return true, nil
	}
	entries, _, err := bodyAttrs(n)
	for _, e := range entries {
		if binary.LittleEndian.Uint32(e[4:]) != 0 { // e_value_inum
			return true, nil
		}
	}
	return false, err
}

// maxDirBytes bounds how much of one directory is read.
const maxDirBytes = 256 << 20

// entry is a directory's entry.
type entry struct {
	name  string
	inode int64
}

// entries lists a directory. Hashed directories are read as plain ones: their
// index hides in entries without an inode.
func (f *extFS) entries(n *extInode) ([]entry, error) {
	if n.kind() != modeDir {
		return nil, errors.New("not a directory")
	}
	b, err := f.content(n, maxDirBytes)
	if err != nil {
		return nil, err
	}
	if n.flags()&flagInline != 0 {
		return inlineEntries(b)
	}
	var out []entry
	for size := int(f.sb.blockSize); len(b) > 0; b = b[min(size, len(b)):] {
		if out, err = appendEntries(out, b[:min(size, len(b))]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// inlineEntries reads a directory within an inode: the parent's number, then
// entries that cross neither the end of i_block nor that of the attribute.
func inlineEntries(b []byte) ([]entry, error) {
	if len(b) < 4 {
		return nil, errors.New("an inline directory is damaged")
	}
	head := min(60, len(b))
	out, err := appendEntries(nil, b[4:head])
	if err != nil {
		return nil, err
	}
	return appendEntries(out, b[head:])
}

func appendEntries(out []entry, b []byte) ([]entry, error) {
	le := binary.LittleEndian
	for len(b) >= 8 {
		inode, length, name := int64(le.Uint32(b)), int(le.Uint16(b[4:])), int(b[6])
		if length == 0 || length == 65535 {
			length = 65536
		}
		if length < 8 || length > len(b) || 8+name > length {
			return nil, errors.New("a directory is damaged")
		}
		if inode != 0 {
			out = append(out, entry{string(b[8 : 8+name]), inode})
		}
		b = b[length:]
	}
	return out, nil
}
