package imaging

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Decompress returns what r holds: unpacked where it begins as gzip, xz, zstd or
// bzip2 files do, else as it is. The caller closes it.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, copyBuffer)
	start, err := in.Peek(sniffBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if c := compressionOf(start); c != nil {
		return c.open(in)
	}
	return io.NopCloser(in), nil
}

// WriteSparse writes what r holds to a file of mode 0600 in which runs of zeros are
// holes. The file gets its name when it is whole and durable.
func WriteSparse(ctx context.Context, name string, r io.Reader) error {
	err := newFolderSync().publish(ctx, name, func(f *os.File) error {
		if err := writeSparse(ctx, f, r, func() {}); err != nil {
			return err
		}
		return f.Sync()
	})
	if err != nil {
		return fmt.Errorf("write image %s: %w", name, err)
	}
	return nil
}
