package imaging

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
)

// Decompress returns what r holds: unpacked where it begins as gzip, xz or zstd
// files do, else as it is. The caller closes it.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, copyBuffer)
	start, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, c := range compressions {
		if strings.HasPrefix(string(start), c.magic) {
			return c.open(in)
		}
	}
	return io.NopCloser(in), nil
}

// WriteSparse writes what r holds to a new file of mode 0600 in which runs of
// zeros are holes. The file gets its name when it is whole and durable.
func WriteSparse(ctx context.Context, name string, r io.Reader) error { return unpackTo(ctx, name, r) }
