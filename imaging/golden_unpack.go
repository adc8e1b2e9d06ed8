package imaging

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// compressions are told by how a file begins.
var compressions = []struct {
	name, magic, extension string
	open                   func(io.Reader) (io.ReadCloser, error)
}{
	{"gzip", "\x1f\x8b", ".gz", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"xz", "\xfd7zXZ\x00", ".xz", func(r io.Reader) (io.ReadCloser, error) {
		reader, err := xz.NewReader(r)
		return io.NopCloser(reader), err
	}},
	{"zstd", "\x28\xb5\x2f\xfd", ".zst", func(r io.Reader) (io.ReadCloser, error) {
		reader, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return reader.IOReadCloser(), nil
	}},
}

// unpacked returns the path of the raw image: the path itself, or where the
// compressed image was unpacked to, once, under the hash of the compressed file.
func unpacked(ctx context.Context, path, cache string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, copyBuffer)
	start, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	for _, c := range compressions {
		if !strings.HasPrefix(string(start), c.magic) {
			continue
		}
		if cache == "" {
			return "", refuse("Unpack it first, or name a folder where unpacked images are kept.", "the image is compressed with %s", c.name)
		}
		name, err := unpackedName(ctx, file, path, cache, c.extension)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
		out, err := c.open(in)
		if err != nil {
			return "", fmt.Errorf("unpack (%s): %w", c.name, err)
		}
		defer out.Close()
		if err := unpackTo(ctx, name, out); err != nil {
			return "", fmt.Errorf("unpack (%s): %w", c.name, err)
		}
		return name, nil
	}
	return path, nil
}

// unpackedName is where the raw image is kept: golden.sdimg.xz becomes
// HASH.sdimg, since tools go by the extension.
func unpackedName(ctx context.Context, file *os.File, path, cache, extension string) (string, error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	state, err := stateOf(info)
	if err != nil {
		return "", err
	}
	sum, _, err := cachedSum(ctx, path, state, cache)
	if err != nil {
		return "", err
	}
	inner := filepath.Ext(strings.TrimSuffix(path, extension))
	if inner == "" {
		inner = ".img"
	}
	return filepath.Join(cache, hex.EncodeToString(sum[:])+inner), nil
}

// unpackName is what an image is called while it is unpacked.
const unpackName = ".unpack-*"

// unpackTo writes a sparse file, which gets its name when it is whole.
func unpackTo(ctx context.Context, name string, in io.Reader) (err error) {
	pattern := filepath.Join(filepath.Dir(name), unpackName)
	for _, left := range unlocked(pattern) { // by a killed process
		if err := os.Remove(left); err != nil {
			return err
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), unpackName) // "." is not "", which would be another disk's /tmp
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, tmp.Close()); err == nil {
			err = os.Rename(tmp.Name(), name)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err := unix.Flock(int(tmp.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	buf, at := make([]byte, copyBuffer), int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := fill(in, buf)
		if err := writeNonZero(tmp, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(tmp.Truncate(at), tmp.Sync())
}

// fill reads until buf is full. Other than io.ReadFull it keeps apart the end
// of the stream and a stream that was cut off.
func fill(in io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = in.Read(buf[n:])
		n += k
	}
	return n, err
}
