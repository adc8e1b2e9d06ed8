package imaging

import (
	"context"
	"io"
	"sort"
)

// Reader shows a device's image: golden with an overlay over it. ReadAt may be
// called by many goroutines at once.
type Reader struct {
	golden  io.ReaderAt
	size    int64
	extents []Extent
}

// NewReader returns the merged view of golden and overlay. It fails where the
// overlay belongs to another golden image, or golden was changed.
func NewReader(g Image, o *Overlay) (*Reader, error) {
	if err := checkGolden(g, o); err != nil {
		return nil, err
	}
	return newReader(g, g.Size(), o.Extents()), nil
}

func newReader(golden io.ReaderAt, size int64, extents []Extent) *Reader {
	return &Reader{golden: golden, size: size, extents: extents}
}

// Size returns the image's length in bytes.
func (r *Reader) Size() int64 { return r.size }

// ReadAt reads as io.ReaderAt says. Bytes that the overlay covers are not read
// from golden.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.size-off
	if short {
		p = p[:r.size-off]
	}
	n := 0
	for n < len(p) {
		m, err := r.piece(p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// piece reads as much as lies in one extent, or in golden before the next.
func (r *Reader) piece(p []byte, off int64) (int, error) {
	i := r.after(off)
	if i < len(r.extents) && r.extents[i].Offset <= off {
		return copy(p, r.extents[i].Data[off-r.extents[i].Offset:]), nil
	}
	if i < len(r.extents) {
		p = p[:min(int64(len(p)), r.extents[i].Offset-off)]
	}
	n, err := r.golden.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// after returns the index of the first extent that ends behind off.
func (r *Reader) after(off int64) int {
	return sort.Search(len(r.extents), func(i int) bool {
		return r.extents[i].Offset+int64(len(r.extents[i].Data)) > off
	})
}

// NewSeeker returns the image as a file to read from its start.
func (r *Reader) NewSeeker() io.ReadSeeker { return io.NewSectionReader(r, 0, r.size) }

// Stream writes a device's whole image to w.
func Stream(ctx context.Context, g Image, o *Overlay, w io.Writer) error {
	r, err := NewReader(g, o)
	if err != nil {
		return err
	}
	if err := copyTo(ctx, w, r, 0, r.size); err != nil {
		return err
	}
	return g.Unchanged()
}
