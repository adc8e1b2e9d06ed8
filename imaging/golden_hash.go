package imaging

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// copyBuffer is how much is read at once.
const copyBuffer = 1 << 20

// dataWithin returns the parts of [from, to) that the file's holes leave over.
// A file system that knows no holes has one span. It moves the file's offset.
func dataWithin(file *os.File, from, to int64) ([]Span, error) {
	var out []Span
	for from < to {
		start, err := unix.Seek(int(file.Fd()), from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if errors.Is(err, unix.EINVAL) {
			return append(out, Span{from, to - from}), nil
		}
		if err != nil {
			return nil, fmt.Errorf("find the holes of %s: %w", file.Name(), err)
		}
		end, err := unix.Seek(int(file.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find the holes of %s: %w", file.Name(), err)
		}
		if start = max(start, from); start >= to {
			break
		}
		end = min(end, to)
		out = append(out, Span{start, end - start})
		from = end
	}
	return out, nil
}

// sumFile hashes a file's first size bytes without reading its holes.
func sumFile(ctx context.Context, path string, size int64, progress func(step string, done, total int64)) (sum [sha256.Size]byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer file.Close()
	spans, err := dataWithin(file, 0, size)
	if err != nil {
		return sum, err
	}
	hash := sha256.New()
	zeros, buf := make([]byte, copyBuffer), make([]byte, copyBuffer)
	at := int64(0)
	feed := func(end int64, hole bool) error {
		for at < end {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := zeros[:min(copyBuffer, end-at)]
			if !hole {
				p = buf[:len(p)]
				if err := readFull(file, p, at); err != nil {
					return err
				}
			}
			hash.Write(p)
			at += int64(len(p))
			if progress != nil {
				progress("hash", at, size)
			}
		}
		return nil
	}
	for _, s := range append(spans, Span{size, 0}) {
		if err := errors.Join(feed(s.Offset, true), feed(s.Offset+s.Length, false)); err != nil {
			return sum, err
		}
	}
	hash.Sum(sum[:0])
	return sum, nil
}

// cachedSum returns the image's hash, and whether it was computed now. In dir it
// is kept under a name made from path and state, so that a changed file never
// finds its old hash.
func cachedSum(ctx context.Context, path string, state fileState, opt GoldenOptions) (sum [sha256.Size]byte, now bool, err error) {
	dir := opt.CacheDir
	if dir == "" {
		sum, err = sumFile(ctx, path, state.size, opt.Progress)
		return sum, true, err
	}
	if sum, ok := unpackedSum(path); ok {
		return sum, false, nil
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\x00%+v", path, state))
	name := filepath.Join(dir, "golden-"+hex.EncodeToString(key[:16])+".sha256")
	if text, err := os.ReadFile(name); err == nil {
		if b, err := hex.DecodeString(strings.TrimSpace(string(text))); err == nil && len(b) == sha256.Size {
			return [sha256.Size]byte(b), false, nil
		}
	}
	if sum, err = sumFile(ctx, path, state.size, opt.Progress); err != nil {
		return sum, true, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sum, true, fmt.Errorf("keep the golden image's hash: %w", err)
	}
	if err := writeWhole(name, fmt.Appendf(nil, "%x\n", sum)); err != nil {
		return sum, true, fmt.Errorf("keep the golden image's hash: %w", err)
	}
	return sum, true, nil
}

// writeWhole writes a file under a temporary name and renames it, so that
// nobody sees it half-written.
func writeWhole(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// copySparse copies size bytes at from of src to the start of dst, which must
// be new, and leaves holes where src has holes or blocks of zeros.
func copySparse(ctx context.Context, dst, src *os.File, from, size int64) error {
	spans, err := dataWithin(src, from, from+size)
	if err != nil {
		return err
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	for _, s := range spans {
		for at, end := s.Offset, s.Offset+s.Length; at < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(copyBuffer, end-at)]
			if err := readFull(src, p, at); err != nil {
				return err
			}
			if err := writeNonZero(dst, p, at-from); err != nil {
				return err
			}
			at += int64(len(p))
		}
	}
	return nil
}

// writeNonZero writes the 64 KiB pieces of p that hold anything.
func writeNonZero(dst io.WriterAt, p []byte, at int64) error {
	const piece = 64 << 10
	for len(p) > 0 {
		n := min(piece, len(p))
		if !allZero(p[:n]) {
			if _, err := dst.WriteAt(p[:n], at); err != nil {
				return err
			}
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}
