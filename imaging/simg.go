package imaging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The Android sparse image, version 1.0, as AOSP's system/core
// libsparse/sparse_format.h defines it; little endian. Chunks of the type "don't
// care" leave what lies on the device: golden must be there already.
const (
	simgMagic       = 0xed26ff3a
	simgHeaderSize  = 28
	simgChunkHeader = 12
	simgRaw         = 0xcac1
	simgDontCare    = 0xcac3
	simgMaxChunk    = 64 << 20 // bytes that one raw chunk has at most
)

var errSimg = errors.New("not an Android sparse image of keymill's making")

func openSimg(_ context.Context, g Image, _ string) (Writer, error) {
	return newDeltaWriter(g, deltaCodec{block: simgBlock, encode: encodeSimg, decode: decodeSimg})
}

// simgBlock returns the block size of an image: 4 KiB, or what the image's
// length is a multiple of.
func simgBlock(size int64) int64 {
	block := int64(deltaBlock)
	for size%block != 0 && block > 4 {
		block /= 2
	}
	return block
}

// checkSimg refuses what is not whole blocks of four bytes, or more blocks than
// the header counts.
func checkSimg(size int64) error {
	if block := simgBlock(size); size%block != 0 || size/block >= 1<<32 {
		return refuse("Let the golden image end at a whole block (truncate -s %4096), or use another format.",
			"an Android sparse image can't have %d bytes", size)
	}
	return nil
}

func encodeSimg(g Image, blocks []Extent) ([]Extent, int64, error) {
	size, block := g.Size(), simgBlock(g.Size())
	if err := checkSimg(size); err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	out := make([]byte, simgHeaderSize)
	chunks := uint32(0)
	chunk := func(kind uint16, length int64, data []byte) {
		out = le.AppendUint16(out, kind)
		out = le.AppendUint16(out, 0)
		out = le.AppendUint32(out, uint32(length/block))
		out = le.AppendUint32(out, uint32(simgChunkHeader+len(data)))
		out = append(out, data...)
		chunks++
	}
	var at int64
	for _, b := range blocks {
		if b.Offset > at {
			chunk(simgDontCare, b.Offset-at, nil)
		}
		for data := b.Data; len(data) > 0; {
			n := min(len(data), simgMaxChunk)
			chunk(simgRaw, int64(n), data[:n])
			data = data[n:]
		}
		at = b.Offset + int64(len(b.Data))
	}
	if at < size {
		chunk(simgDontCare, size-at, nil)
	}
	le.PutUint32(out[0:], simgMagic)
	le.PutUint16(out[4:], 1) // major version; the minor one is 0
	le.PutUint16(out[8:], simgHeaderSize)
	le.PutUint16(out[10:], simgChunkHeader)
	le.PutUint32(out[12:], uint32(block))
	le.PutUint32(out[16:], uint32(size/block))
	le.PutUint32(out[20:], chunks)
	return []Extent{{0, out}}, int64(len(out)), nil
}

// decodeSimg reads a sparse image for an image of size bytes back.
func decodeSimg(f *os.File, _ string, size int64) ([]Extent, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return parseSimg(io.NewSectionReader(f, 0, info.Size()), size)
}

func parseSimg(file *io.SectionReader, size int64) ([]Extent, error) {
	le := binary.LittleEndian
	var h [simgHeaderSize]byte
	if _, err := io.ReadFull(file, h[:]); err != nil || le.Uint32(h[0:]) != simgMagic ||
		le.Uint16(h[8:]) != simgHeaderSize || le.Uint16(h[10:]) != simgChunkHeader {
		return nil, errSimg
	}
	block := int64(le.Uint32(h[12:]))
	if block == 0 || int64(le.Uint32(h[16:])) != size/block || size%block != 0 {
		return nil, fmt.Errorf("%w: it is for an image of another length", errSimg)
	}
	var blocks []Extent
	var at int64
	for range le.Uint32(h[20:]) {
		var c [simgChunkHeader]byte
		if _, err := io.ReadFull(file, c[:]); err != nil {
			return nil, fmt.Errorf("%w: it ends too early", errSimg)
		}
		length := int64(le.Uint32(c[4:])) * block
		stored := int64(le.Uint32(c[8:])) - simgChunkHeader
		here, _ := file.Seek(0, io.SeekCurrent) // can't fail
		switch kind := le.Uint16(c[0:]); {
		case length > size-at:
			return nil, fmt.Errorf("%w: a chunk lies beyond the end", errSimg)
		case kind == simgDontCare && stored == 0:
		case kind == simgRaw && stored == length && stored <= file.Size()-here:
			data := make([]byte, stored)
			if _, err := io.ReadFull(file, data); err != nil {
				return nil, err
			}
			blocks = joinExtent(blocks, Extent{at, data})
		default:
			return nil, fmt.Errorf("%w: a chunk of type %#x", errSimg, kind)
		}
		at += length
	}
	if at != size {
		return nil, fmt.Errorf("%w: it ends at %d of %d bytes", errSimg, at, size)
	}
	return blocks, nil
}

// joinExtent appends an extent, joined with the last one where it follows it.
func joinExtent(list []Extent, e Extent) []Extent {
	if last := len(list) - 1; last >= 0 && list[last].Offset+int64(len(list[last].Data)) == e.Offset {
		list[last].Data = append(list[last].Data, e.Data...)
		return list
	}
	return append(list, e)
}
