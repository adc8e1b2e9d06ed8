package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/ulikunitz/xz/lzma"
)

func openXz(ctx context.Context, g Image, dir string) (Writer, error) {
	return openCompress(ctx, g, dir, "xz", xzCodec{})
}

// xzCodec makes blocks of one xz stream, one a chunk, as The .xz File Format,
// version 1.2.1, defines them: LZMA2 with a dictionary of a chunk's length, and
// CRC-32 as the check, which all decoders know, those of boot loaders too.
type xzCodec struct{}

const (
	xzCheckCRC32 = 1
	xzFilter     = 0x21 // LZMA2
	// xzDictionary is 4 MiB in the coding of LZMA2: (2|bits&1) << (bits/2 + 11).
	xzDictionary = 20
	xzSizes      = 0xc0 // block flags: one filter, both lengths are present
	lzma2Stored  = 2    // control byte: a stored chunk, the dictionary goes on
	lzma2Reset   = 1    // control byte: a stored chunk, the dictionary is reset
	lzma2Chunk   = 64 << 10
)

var (
	xzFlags = []byte{0, xzCheckCRC32}
	errXz   = errors.New("not an xz block of keymill's making")
)

func (xzCodec) head() []byte {
	out := append([]byte{0xfd, '7', 'z', 'X', 'Z', 0}, xzFlags...)
	return binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(xzFlags))
}

func (c xzCodec) pack(data []byte) (packed, error) {
	var b bytes.Buffer
	w, err := lzma.Writer2Config{DictCap: compressChunk}.NewWriter2(&b)
	if err != nil {
		return packed{}, err
	}
	if _, err := w.Write(data); err != nil {
		return packed{}, err
	}
	if err := w.Close(); err != nil {
		return packed{}, err
	}
	return c.block(b.Bytes(), data), nil
}

func (c xzCodec) store(data []byte) packed {
	out := make([]byte, 0, len(data)+16)
	control := byte(lzma2Reset)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), lzma2Chunk)
		out = append(out, control)
		out = binary.BigEndian.AppendUint16(out, uint16(n-1))
		out = append(out, rest[:n]...)
		rest, control = rest[n:], lzma2Stored
	}
	return c.block(append(out, 0), data)
}

// block puts header, padding and check around LZMA2 data.
func (xzCodec) block(body, data []byte) packed {
	h := []byte{0, xzSizes}
	h = binary.AppendUvarint(h, uint64(len(body)))
	h = binary.AppendUvarint(h, uint64(len(data)))
	h = append(h, xzFilter, 1, xzDictionary)
	h = pad4(h)
	h[0] = byte(len(h) / 4) // with the checksum, in units of four bytes, less one
	out := binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(h))
	out = append(out, body...)
	unpadded := int64(len(out)) + 4
	out = pad4(out)
	return packed{binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(data)), unpadded}
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (xzCodec) unpack(p []byte, length int64) ([]byte, error) {
	if len(p) < 16 || p[1] != xzSizes {
		return nil, errXz
	}
	n := (int(p[0]) + 1) * 4
	if n > len(p)-4 || binary.LittleEndian.Uint32(p[n-4:]) != crc32.ChecksumIEEE(p[:n-4]) {
		return nil, errXz
	}
	body, m := binary.Uvarint(p[2:n])
	if m <= 0 || body > uint64(len(p)-n-4) {
		return nil, errXz
	}
	r, err := lzma.Reader2Config{DictCap: compressChunk}.NewReader2(bytes.NewReader(p[n : n+int(body)]))
	if err != nil {
		return nil, err
	}
	data, err := readExactly(r, length)
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(p[len(p)-4:]) != crc32.ChecksumIEEE(data) {
		return nil, errXz
	}
	return data, nil
}

// tail returns the stream's index and footer.
func (xzCodec) tail(chunks []chunk) []byte {
	le := binary.LittleEndian
	index := binary.AppendUvarint([]byte{0}, uint64(len(chunks)))
	for _, c := range chunks {
		index = binary.AppendUvarint(index, uint64(c.unpadded))
		index = binary.AppendUvarint(index, uint64(c.image.Length))
	}
	index = pad4(index)
	index = le.AppendUint32(index, crc32.ChecksumIEEE(index))
	footer := le.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, xzFlags...)
	out := le.AppendUint32(index, crc32.ChecksumIEEE(footer))
	out = append(out, footer...)
	return append(out, 'Y', 'Z')
}
