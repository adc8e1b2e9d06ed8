package imaging

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/klauspost/compress/zstd"
)

func openZstd(ctx context.Context, g Image, dir string) (Writer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true), zstd.WithWindowSize(compressChunk))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, err
	}
	return openCompress(ctx, g, dir, "zst", zstdCodec{enc, dec})
}

// zstdCodec makes frames of Zstandard (RFC 8878), one a chunk.
type zstdCodec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

const (
	zstdMagic = 0xfd2fb528
	// zstdDescriptor: a content size of four bytes, one segment, a checksum.
	zstdDescriptor = 2<<6 | 1<<5 | 1<<2
	zstdBlock      = 128 << 10 // bytes that a block has at most
)

func (zstdCodec) head() []byte        { return nil }
func (zstdCodec) tail([]chunk) []byte { return nil }

func (c zstdCodec) pack(data []byte) (packed, error) {
	out := c.enc.EncodeAll(data, nil)
	return packed{out, int64(len(out))}, nil
}

func (c zstdCodec) unpack(p []byte, length int64) ([]byte, error) {
	data, err := c.dec.DecodeAll(p, make([]byte, 0, length))
	if err == nil && int64(len(data)) != length {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

func (zstdCodec) store(data []byte) packed {
	le := binary.LittleEndian
	out := le.AppendUint32(make([]byte, 0, len(data)+32), zstdMagic)
	out = append(out, zstdDescriptor)
	out = le.AppendUint32(out, uint32(len(data)))
	// In a frame of one segment, the window is the content.
	most := min(zstdBlock, len(data))
	for rest := data; ; {
		n := min(len(rest), most)
		header := uint32(n) << 3 // a raw block
		if n == len(rest) {
			header |= 1 // the last one
		}
		out = append(out, byte(header), byte(header>>8), byte(header>>16))
		out = append(out, rest[:n]...)
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	out = le.AppendUint32(out, uint32(xxh64(data)))
	return packed{out, int64(len(out))}
}
