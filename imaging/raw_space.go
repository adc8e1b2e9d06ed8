package imaging

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reflinks reports whether files in the folder dir can share the blocks of the
// golden image: whether a raw image there costs next to nothing. It tries it.
func Reflinks(g Image, dir string) (bool, error) {
	src, err := os.Open(g.Path())
	if err != nil {
		return false, fmt.Errorf("try a reflink: %w", err)
	}
	defer src.Close()
	probe, err := os.CreateTemp(dir, tempPrefix+"*"+tempSuffix)
	if err != nil {
		return false, fmt.Errorf("try a reflink: %w", err)
	}
	defer probe.Close()
	defer os.Remove(probe.Name())
	return unix.IoctlFileClone(int(probe.Fd()), int(src.Fd())) == nil, nil
}

// FreeBytes returns the bytes that the file system of the folder dir has left
// for us.
func FreeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// AllocatedBytes returns the bytes that a file takes on the disk: what a copy
// that leaves holes out will take as well.
func AllocatedBytes(path string) (int64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return s.Blocks * 512, nil
}

// zeroStep is the granularity in which zeros are left out, in bytes: the
// block size of usual file systems.
const zeroStep = 4096

// filledSpans returns the ranges of the first size bytes of a file that are
// not zero, in steps of 4 KiB. It reads what is not a hole.
func filledSpans(ctx context.Context, f *os.File, size int64) ([]Span, error) {
	var spans []Span
	buf := make([]byte, streamBuffer)
	filled, err := dataWithin(f, 0, size)
	if err != nil {
		return nil, err
	}
	for _, data := range filled {
		for at, end := data.Offset, data.Offset+data.Length; at < end; {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			part := buf[:min(int64(len(buf)), end-at)]
			if _, err := f.ReadAt(part, at); err != nil {
				return nil, err
			}
			spans = appendFilled(spans, part, at)
			at += int64(len(part))
		}
	}
	return spans, nil
}

// appendFilled appends the steps of part that are not zero, joined with the
// last span where they follow it.
func appendFilled(spans []Span, part []byte, at int64) []Span {
	for len(part) > 0 {
		n := min(zeroStep, len(part))
		if !allZero(part[:n]) {
			if last := len(spans) - 1; last >= 0 && spans[last].Offset+spans[last].Length == at {
				spans[last].Length += int64(n)
			} else {
				spans = append(spans, Span{at, int64(n)})
			}
		}
		part = part[n:]
		at += int64(n)
	}
	return spans
}
