package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// deltaBlock is the granularity of formats that hold only what differs from
// golden, in bytes. Slots can lie in file system blocks of 1 KiB; what is
// missing to whole blocks comes from golden.
const deltaBlock = 4096

// deltaCodec is what differs between such formats.
type deltaCodec struct {
	// block returns the granularity for an image of size bytes.
	block func(size int64) int64
	// encode returns the file: pieces at their offsets, holes between them, and
	// its length. Blocks are whole, but for the image's last one.
	encode func(g Image, blocks []Extent) (pieces []Extent, length int64, err error)
	// decode reads the blocks back from a file for an image of size bytes.
	decode func(f *os.File, sidecar string, size int64) ([]Extent, error)
	// suffix is what the name of a second file adds to the first one's, and
	// sidecar returns its content; nil if there is none.
	suffix  string
	sidecar func(g Image, blocks []Extent) []byte
}

// deltaWriter writes a format that holds only what differs from golden.
type deltaWriter struct {
	golden Image
	folder *folderSync
	flush  *fileSync
	deltaCodec
}

func newDeltaWriter(g Image, codec deltaCodec) (*deltaWriter, error) {
	return &deltaWriter{g, newFolderSync(), newFileSync(), codec}, g.Unchanged()
}

func (w *deltaWriter) Close() error { return nil }

func (w *deltaWriter) Write(ctx context.Context, o *Overlay, dst string) (Result, error) {
	result, err := w.write(ctx, o, dst)
	if err != nil {
		return Result{}, fmt.Errorf("write image %s: %w", dst, err)
	}
	return result, nil
}

func (w *deltaWriter) write(ctx context.Context, o *Overlay, dst string) (Result, error) {
	r, err := NewReader(w.golden, o)
	if err != nil {
		return Result{}, err
	}
	blocks, err := widen(r, w.block(r.size))
	if err != nil {
		return Result{}, err
	}
	defer wipeExtents(blocks)
	pieces, length, err := w.encode(w.golden, blocks)
	if err != nil {
		return Result{}, err
	}
	defer wipeExtents(pieces)
	var files []*staged
	var sidecar string
	var unsynced []*os.File
	if w.sidecar != nil {
		content := w.sidecar(w.golden, blocks)
		f, err := stage(ctx, dst+w.suffix, func(f *os.File) error {
			_, err := f.Write(content) // durable with the file that it belongs to
			return err
		})
		if err != nil {
			return Result{}, err
		}
		files = append(files, f)
		sidecar = f.Name()
		unsynced = append(unsynced, f.File)
	}
	f, err := stage(ctx, dst, func(f *os.File) (err error) {
		defer wipeFailed(f, nil, &err)
		if err := f.Truncate(length); err != nil {
			return err
		}
		if err := patch(f, pieces); err != nil {
			return err
		}
		if err := w.flush.sync(append(unsynced, f)...); err != nil {
			return err
		}
		return w.compare(f, sidecar, blocks)
	})
	if err != nil {
		for _, f := range files {
			err = errors.Join(err, f.discard())
		}
		return Result{}, err
	}
	return Result{Bytes: length}, w.folder.release(append(files, f)...)
}

// compare reads a file back as whoever flashes it does.
func (w *deltaWriter) compare(f *os.File, sidecar string, blocks []Extent) error {
	got, err := w.decode(f, sidecar, w.golden.Size())
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer wipeExtents(got)
	same := len(got) == len(blocks)
	for i := 0; same && i < len(got); i++ {
		same = got[i].Offset == blocks[i].Offset && bytes.Equal(got[i].Data, blocks[i].Data)
	}
	if !same {
		return errors.New("read back: the file doesn't hold what was written")
	}
	return nil
}

// deltaView shows golden with a file's blocks over it.
type deltaView struct {
	*Reader
	*os.File
}

func (v deltaView) ReadAt(p []byte, off int64) (int, error) { return v.Reader.ReadAt(p, off) }

func (w *deltaWriter) View(path string) (View, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	blocks, err := w.decode(f, path+w.suffix, w.golden.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return deltaView{newReader(w.golden, w.golden.Size(), blocks), f}, nil
}

// widen returns whole blocks that cover the reader's extents, with golden's
// bytes where no extent lies; neighbours are joined.
func widen(r *Reader, block int64) ([]Extent, error) {
	var out []Extent
	var start, end int64
	add := func() error {
		if end == start {
			return nil
		}
		data := make([]byte, end-start)
		if n, err := r.ReadAt(data, start); n < len(data) {
			return err
		}
		out = append(out, Extent{start, data})
		return nil
	}
	for _, e := range r.extents {
		if len(e.Data) == 0 {
			continue
		}
		from := e.Offset / block * block
		to := min((e.Offset+int64(len(e.Data))+block-1)/block*block, r.size)
		if from <= end && end > start {
			end = max(end, to)
			continue
		}
		if err := add(); err != nil {
			return nil, err
		}
		start, end = from, to
	}
	return out, add()
}

// writeSynced writes a small file.
func writeSynced(f *os.File, content []byte) error {
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}

// wipeExtents overwrites a device's bytes in memory that nobody else uses.
func wipeExtents(list []Extent) {
	for _, e := range list {
		clear(e.Data)
	}
}
