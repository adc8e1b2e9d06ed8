package imaging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// rawWriter writes raw images: reflinks of golden where the file system has
// them, elsewhere copies that leave out what is zero. Beside each lies a block map
// that names all that matters, zeros included: tools that go by the file's holes
// would leave old bytes on a used medium.
type rawWriter struct {
	golden Image
	folder *folderSync
	flush  *fileSync
	maps   mapMaker

	mu    sync.Mutex
	known bool
	data  []Span // golden's ranges that are not zero; guarded by mu, then constant
}

func openRaw(_ context.Context, g Image, _ string) (Writer, error) {
	return newRawWriter(g), g.Unchanged()
}

func newRawWriter(g Image) *rawWriter {
	return &rawWriter{golden: g, folder: newFolderSync(), flush: newFileSync(), maps: mapMaker{golden: g}}
}

func (w *rawWriter) Close() error { return nil }

func (w *rawWriter) View(path string) (View, error) { return os.Open(path) }

// WriteRaw publishes one raw image as Writer.Write says, without a block map; for
// many of one golden image, a Writer of the format raw is faster.
func WriteRaw(ctx context.Context, g Image, o *Overlay, dst string) (Result, error) {
	w := newRawWriter(g)
	f, shared, err := w.stage(ctx, o, dst, nil)
	if err == nil {
		err = w.folder.release(f)
	}
	if err != nil {
		return Result{}, fmt.Errorf("write image %s: %w", dst, err)
	}
	return Result{Bytes: g.Size(), Shared: shared}, nil
}

func (w *rawWriter) Write(ctx context.Context, o *Overlay, dst string) (Result, error) {
	shared, err := w.write(ctx, o, dst)
	if err != nil {
		return Result{}, fmt.Errorf("write image %s: %w", dst, err)
	}
	return Result{Bytes: w.golden.Size(), Shared: shared}, nil
}

func (w *rawWriter) write(ctx context.Context, o *Overlay, dst string) (shared bool, err error) {
	if err := checkGolden(w.golden, o); err != nil {
		return false, err
	}
	content, err := w.maps.mapOf(ctx, o)
	if err != nil {
		return false, err
	}
	sidecar, err := stage(ctx, dst+bmapSuffix, func(f *os.File) error {
		_, err := f.Write(content) // durable with the image
		return err
	})
	if err != nil {
		return false, err
	}
	image, shared, err := w.stage(ctx, o, dst, sidecar.File)
	if err != nil {
		return false, errors.Join(err, sidecar.discard())
	}
	return shared, w.folder.release(sidecar, image)
}

// stage writes an image under its hidden name, and makes it and another file
// durable.
func (w *rawWriter) stage(ctx context.Context, o *Overlay, dst string, with *os.File) (f *staged, shared bool, err error) {
	f, err = stage(ctx, dst, func(f *os.File) (err error) {
		if err := checkGolden(w.golden, o); err != nil {
			return err
		}
		if shared, err = w.fill(ctx, f); err != nil {
			return err
		}
		extents := o.Extents()
		defer wipeFailed(f, o.Template.variable(), &err)
		if err := patch(f, extents); err != nil {
			return err
		}
		files := []*os.File{f}
		if with != nil {
			files = append(files, with)
		}
		if err := w.flush.sync(files...); err != nil {
			return err
		}
		if err := checkWritten(f, extents); err != nil {
			return err
		}
		return w.golden.Unchanged()
	})
	if err == nil {
		f.own = o.Template.variable()
	}
	return f, shared, err
}

// fill makes an empty file equal to golden, and reports whether the two share
// their blocks.
func (w *rawWriter) fill(ctx context.Context, f *os.File) (shared bool, err error) {
	src, err := os.Open(w.golden.Path())
	if err != nil {
		return false, err
	}
	defer src.Close()
	if unix.IoctlFileClone(int(f.Fd()), int(src.Fd())) == nil {
		return true, nil
	}
	spans, err := w.spans(ctx, src)
	if err != nil {
		return false, err
	}
	if err := f.Truncate(w.golden.Size()); err != nil {
		return false, err
	}
	for _, span := range spans {
		if err := copyRange(ctx, f, src, span, span.Offset); err != nil {
			return false, err
		}
	}
	return false, nil
}

// spans returns golden's ranges that are not zero.
func (w *rawWriter) spans(ctx context.Context, src *os.File) ([]Span, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known {
		return w.data, nil
	}
	data, err := filledSpans(ctx, src, w.golden.Size())
	w.data, w.known = data, err == nil
	return data, err
}

// checkGolden returns an error unless the overlay belongs to the golden image,
// and that is unchanged.
func checkGolden(g Image, o *Overlay) error {
	if o.Template.Golden != g.SHA256() || o.Template.GoldenBytes != g.Size() {
		return fmt.Errorf("the overlay belongs to another golden image than %s", g.Path())
	}
	return g.Unchanged()
}

// wipeFailed overwrites the key in a file whose writing has failed, before it is
// removed. What can't be overwritten now is on a disk that fails.
func wipeFailed(f *os.File, own []Span, err *error) {
	if *err != nil {
		*err = errors.Join(*err, overwriteFile(f, own))
	}
}

func spansOf(extents []Extent) []Span {
	out := make([]Span, len(extents))
	for i, e := range extents {
		out[i] = Span{e.Offset, int64(len(e.Data))}
	}
	return out
}

// patch writes extents over a file.
func patch(f *os.File, extents []Extent) error {
	for _, e := range extents {
		if _, err := f.WriteAt(e.Data, e.Offset); err != nil {
			return err
		}
	}
	return nil
}

// checkWritten compares a file's extents with what was written, as the disk has
// them and not the cache, as far as the kernel lets us.
func checkWritten(f *os.File, extents []Extent) error {
	var buf []byte
	defer func() { clear(buf[:cap(buf)]) }()
	for _, e := range extents {
		n := len(e.Data)
		_ = unix.Fadvise(int(f.Fd()), e.Offset, int64(n), unix.FADV_DONTNEED) // advice only
		if cap(buf) < n {
			clear(buf[:cap(buf)])
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := f.ReadAt(buf, e.Offset); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if string(buf) != string(e.Data) {
			return fmt.Errorf("read back: %d bytes at offset %d are not what was written", n, e.Offset)
		}
	}
	return nil
}

// copyStep is how much is copied between two looks at the context, in bytes.
const copyStep = 16 << 20

// copyRange copies one range of src to an offset of dst, within the kernel
// where it can.
func copyRange(ctx context.Context, dst, src *os.File, span Span, to int64) error {
	from, end := span.Offset, span.Offset+span.Length
	for from < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(copyStep, end-from)), 0)
		switch {
		case err == unix.EINTR:
		case from == span.Offset && (err == unix.EXDEV || err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS):
			return copyPlain(ctx, dst, src, span, to)
		case err != nil:
			return os.NewSyscallError("copy_file_range", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		startWriting(dst, to-int64(n), int64(n))
	}
	return nil
}

// copyPlain copies one range by reading and writing.
func copyPlain(ctx context.Context, dst, src *os.File, span Span, to int64) error {
	w := &placedWriter{dst, to}
	return copyTo(ctx, w, src, span.Offset, span.Offset+span.Length)
}

// placedWriter writes from an offset on.
type placedWriter struct {
	f  *os.File
	at int64
}

func (w *placedWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.at)
	startWriting(w.f, w.at, int64(n))
	w.at += int64(n)
	return n, err
}

// startWriting sends a range on its way to the disk, so that the sync at the
// end has less to wait for. It is advice only.
func startWriting(f *os.File, offset, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
}
