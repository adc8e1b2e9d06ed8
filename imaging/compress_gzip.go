package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/gzip"
)

func openGzip(ctx context.Context, g Image, dir string) (Writer, error) {
	return openCompress(ctx, g, dir, "gz", gzipCodec{})
}

// gzipCodec makes members of gzip (RFC 1952), one a chunk.
type gzipCodec struct{}

// gzipHeader has no name and no time; the system is unknown.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

// maxStored is the most that a stored block of deflate holds, in bytes (RFC
// 1951, section 3.2.4).
const maxStored = 65535

func (gzipCodec) head() []byte        { return nil }
func (gzipCodec) tail([]chunk) []byte { return nil }

func (gzipCodec) pack(data []byte) (packed, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		return packed{}, err
	}
	if err := w.Close(); err != nil {
		return packed{}, err
	}
	return packed{b.Bytes(), int64(b.Len())}, nil
}

func (gzipCodec) unpack(p []byte, length int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	return readExactly(r, length)
}

func (gzipCodec) store(data []byte) packed {
	le := binary.LittleEndian
	out := append(make([]byte, 0, len(data)+32), gzipHeader...)
	for rest := data; ; {
		n := min(len(rest), maxStored)
		last := byte(0)
		if n == len(rest) {
			last = 1
		}
		out = append(out, last)
		out = le.AppendUint16(out, uint16(n))
		out = le.AppendUint16(out, ^uint16(n))
		out = append(out, rest[:n]...)
		if rest = rest[n:]; last == 1 {
			break
		}
	}
	out = le.AppendUint32(out, crc32.ChecksumIEEE(data))
	out = le.AppendUint32(out, uint32(len(data)))
	return packed{out, int64(len(out))}
}

// readExactly reads length bytes, behind which the end must be.
func readExactly(r io.Reader, length int64) ([]byte, error) {
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	return data, nil
}
