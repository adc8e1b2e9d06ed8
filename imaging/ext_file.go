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

// inlineSpans returns where inline content lies, as offsets within the inode:
// i_block first, then the value of the attribute system.data.
func inlineSpans(n *extInode) ([]Span, error) {
	spans := []Span{{0x28, 60}}
	if len(n.raw) <= extInodeMin {
		return spans, nil
	}
	le := binary.LittleEndian
	at := extInodeMin + int(n.u16(extExtraSize))
	if at+4 > len(n.raw) || le.Uint32(n.raw[at:]) != xattrMagic {
		return spans, nil
	}
	first := at + 4
	for at = first; at+xattrEntryBytes <= len(n.raw) && le.Uint32(n.raw[at:]) != 0; {
		e := n.raw[at:]
		name, offset, length := int(e[0]), int(le.Uint16(e[2:])), int(le.Uint32(e[8:]))
		if at+xattrEntryBytes+name > len(n.raw) {
			return nil, errors.New("an inode's attributes are damaged")
		}
		if e[1] == xattrIndexSystem && string(e[16:16+name]) == "data" {
			if length < 0 || length > len(n.raw) || first+offset+length > len(n.raw) {
				return nil, errors.New("an inode's inline data is damaged")
			}
			if length > 0 {
				spans = append(spans, Span{int64(first + offset), int64(length)})
			}
			return spans, nil
		}
		at += xattrEntryBytes + (name+3)&^3
	}
	return spans, nil
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
