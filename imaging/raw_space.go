package imaging

import (
	"errors"
	"fmt"
	"io"
	"iter"
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

// dataSpans yields the ranges of the first size bytes of a file that are not
// holes. File systems that know no holes show one range.
func dataSpans(f *os.File, size int64) iter.Seq2[Span, error] {
	return func(yield func(Span, error) bool) {
		for at := int64(0); at < size; {
			data, err := f.Seek(at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return
			}
			if err != nil {
				yield(Span{}, err)
				return
			}
			hole, err := f.Seek(data, unix.SEEK_HOLE)
			if err != nil {
				yield(Span{}, err)
				return
			}
			hole = min(hole, size)
			if data >= hole {
				yield(Span{}, io.ErrUnexpectedEOF)
				return
			}
			if !yield(Span{data, hole - data}, nil) {
				return
			}
			at = hole
		}
	}
}
