package imaging

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The formats gz, xz and zst. Golden is compressed once, in chunks that can be
// unpacked one by one (members of gzip, blocks of xz, frames of zstd). For each
// template a base is put together from these chunks: only what the template
// changes is compressed anew, and what differs from device to device lies in
// chunks of its own, stored and not compressed, so that their place and length
// don't depend on the content. A device's file is a copy of the base, a reflink
// where possible, with those few chunks replaced.

// compressChunk is the length of golden's chunks, in bytes.
const compressChunk = 4 << 20

// codec is a compressed format that allows chunks one after the other.
type codec interface {
	// head returns what the file begins with.
	head() []byte
	// pack compresses a chunk. May be called by many goroutines at once.
	pack(data []byte) (packed, error)
	// unpack returns the chunk of this length, its checksums compared.
	unpack(p []byte, length int64) ([]byte, error)
	// store returns a chunk that holds data as they are; its length depends on
	// that of data only.
	store(data []byte) packed
	// tail returns what the file ends with.
	tail(chunks []chunk) []byte
}

// packed is a compressed chunk.
type packed struct {
	data     []byte
	unpadded int64 // length without padding at the end
}

// chunk is a part of the image in the compressed file.
type chunk struct {
	image    Span  // in the image
	file     Span  // in the compressed file
	unpadded int64 // length of the packed bytes, without padding
	stored   bool
}

// compressWriter writes one of the compressed formats.
type compressWriter struct {
	golden Image
	folder *folderSync
	codec
	source *os.File // golden, compressed
	chunks []chunk  // of source
	dir    string
	name   string

	mu    sync.Mutex // guards the map
	bases map[*Template]*compressBase
}

// compressBase is what the files of one template's devices share.
type compressBase struct {
	mu     sync.Mutex // held while the base is made
	ready  bool
	file   *os.File
	bytes  int64
	stored []chunk
}

func openCompress(ctx context.Context, g Image, dir, name string, c codec) (Writer, error) {
	w := &compressWriter{
		golden: g, folder: newFolderSync(), codec: c, dir: dir, name: name,
		bases: make(map[*Template]*compressBase),
	}
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// Close removes the templates' bases; golden's chunks stay for the next run.
func (w *compressWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.source.Close()
	for _, b := range w.bases {
		b.mu.Lock()
		if b.ready {
			err = errors.Join(err, b.file.Close(), os.Remove(b.file.Name()))
		}
		b.mu.Unlock()
	}
	w.bases = nil
	return err
}

func (w *compressWriter) Write(ctx context.Context, o *Overlay, dst string) (Result, error) {
	result, err := w.write(ctx, o, dst)
	if err != nil {
		return Result{}, fmt.Errorf("write image %s: %w", dst, err)
	}
	return result, nil
}

func (w *compressWriter) write(ctx context.Context, o *Overlay, dst string) (Result, error) {
	r, err := NewReader(w.golden, o)
	if err != nil {
		return Result{}, err
	}
	base, err := w.base(ctx, o.Template)
	if err != nil {
		return Result{}, err
	}
	var patches []Extent
	defer func() { wipeExtents(patches) }()
	for _, c := range base.stored {
		data := make([]byte, c.image.Length)
		if n, err := r.ReadAt(data, c.image.Offset); n < len(data) {
			return Result{}, err
		}
		patches = append(patches, Extent{c.file.Offset, w.store(data).data})
		clear(data)
	}
	result := Result{Bytes: base.bytes}
	own := spansOf(patches)
	f, err := stage(ctx, dst, func(f *os.File) (err error) {
		result.Shared = unix.IoctlFileClone(int(f.Fd()), int(base.file.Fd())) == nil
		if !result.Shared {
			if err := copyRange(ctx, f, base.file, Span{0, base.bytes}, 0); err != nil {
				return err
			}
		}
		defer wipeFailed(f, own, &err)
		if err := patch(f, patches); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return checkWritten(f, patches)
	})
	if err != nil {
		return Result{}, err
	}
	f.own = own
	return result, w.folder.release(f)
}

// View shows the image of a file that was made by this Writer. The stored
// chunks come from the file, the rest from golden and the template.
func (w *compressWriter) View(path string) (View, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, b := range w.bases {
		b.mu.Lock()
		slots, ok := w.slotsIn(f, b)
		b.mu.Unlock()
		if ok {
			o := Overlay{Template: t, Slots: slots}
			return deltaView{newReader(w.golden, w.golden.Size(), o.Extents()), f}, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("read %s: it was not made from one of this run's templates, or is damaged", path)
}

// slotsIn unpacks a file's stored chunks, if it was made from the base.
func (w *compressWriter) slotsIn(f *os.File, b *compressBase) ([]Extent, bool) {
	info, err := f.Stat()
	if err != nil || !b.ready || info.Size() != b.bytes {
		return nil, false
	}
	var slots []Extent
	for _, c := range b.stored {
		p := make([]byte, c.file.Length)
		if _, err := f.ReadAt(p, c.file.Offset); err != nil {
			return nil, false
		}
		data, err := w.unpack(p, c.image.Length)
		if err != nil {
			return nil, false
		}
		slots = append(slots, Extent{c.image.Offset, data})
	}
	return slots, true
}

// base returns the template's base, made when first needed.
func (w *compressWriter) base(ctx context.Context, t *Template) (*compressBase, error) {
	w.mu.Lock()
	if w.bases == nil {
		w.mu.Unlock()
		return nil, os.ErrClosed
	}
	b := w.bases[t]
	if b == nil {
		b = new(compressBase)
		w.bases[t] = b
	}
	w.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready {
		return b, nil
	}
	if err := w.makeBase(ctx, t, b); err != nil {
		return nil, fmt.Errorf("compress golden with the template: %w", err)
	}
	b.ready = true
	return b, nil
}

func (w *compressWriter) makeBase(ctx context.Context, t *Template, b *compressBase) error {
	name, err := baseName(w.dir, w.name, t)
	if err != nil {
		return err
	}
	image := newReader(w.golden, w.golden.Size(), t.Constant)
	out, err := newChunkFile(ctx, w.folder, name, w.codec)
	if err != nil {
		return err
	}
	variable := t.variable()
	for _, c := range w.chunks {
		if !overlaps(c.image, t.Constant, variable) {
			err = out.copy(w.source, c)
		} else {
			err = out.pieces(image, c.image, variable)
		}
		if err != nil {
			return errors.Join(err, out.discard())
		}
	}
	if b.file, b.bytes, err = out.finish(); err != nil {
		return err
	}
	index := baseIndex{Bytes: b.bytes}
	for _, c := range out.chunks {
		if c.stored {
			b.stored = append(b.stored, c)
			index.Stored = append(index.Stored, c.file)
		}
	}
	content, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return w.folder.publish(ctx, name+baseIndexSuffix, func(f *os.File) error { return writeSynced(f, content) })
}

// baseIndex says where in the files of one template's devices the stored chunks lie.
// It stays when the base goes, so that the keys can be found and overwritten.
type baseIndex struct {
	Bytes  int64  `json:"bytes"` // the files' length
	Stored []Span `json:"stored"`
}

const baseIndexSuffix = ".json"

// baseName is what the base of a template's devices is called.
func baseName(dir, format string, t *Template) (string, error) {
	id, err := t.MarshalBinary()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, fmt.Sprintf("%s%x.%s", basePrefix, sha256.Sum256(id), format)), nil
}

// variable returns where the template's devices differ, sorted and joined
// where little lies between.
func (t *Template) variable() []Span {
	const near = 64 // bytes that a chunk of its own would take in any case
	var all []Span
	for _, s := range t.Slots {
		if s.Inode != nil {
			all = append(all, Span{s.Inode.Offset, int64(s.Inode.Size)})
		}
		for _, c := range s.Content {
			if c.Length > 0 {
				all = append(all, c)
			}
		}
	}
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(a.Offset, b.Offset) })
	var joined []Span
	for _, s := range all {
		last := len(joined) - 1
		if last >= 0 && s.Offset <= joined[last].Offset+joined[last].Length+near {
			joined[last].Length = max(joined[last].Length, s.Offset+s.Length-joined[last].Offset)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

func overlaps(s Span, constant []Extent, variable []Span) bool {
	end := s.Offset + s.Length
	return slices.ContainsFunc(constant, func(e Extent) bool {
		return e.Offset < end && e.Offset+int64(len(e.Data)) > s.Offset
	}) || slices.ContainsFunc(variable, func(v Span) bool {
		return v.Offset < end && v.Offset+v.Length > s.Offset
	})
}
