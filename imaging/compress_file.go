package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// chunkFile is a compressed file that is being written chunk by chunk.
type chunkFile struct {
	ctx    context.Context
	folder *folderSync
	file   *staged
	codec  codec
	at     int64
	chunks []chunk
}

// newChunkFile begins a compressed file that will be named dst.
func newChunkFile(ctx context.Context, folder *folderSync, dst string, c codec) (*chunkFile, error) {
	file, err := stage(ctx, dst, func(*os.File) error { return nil })
	if err != nil {
		return nil, err
	}
	out := &chunkFile{ctx: ctx, folder: folder, file: file, codec: c}
	if err := out.write(c.head()); err != nil {
		return nil, errors.Join(err, out.discard())
	}
	return out, nil
}

func (o *chunkFile) discard() error { return o.file.discard() }

func (o *chunkFile) write(p []byte) error {
	_, err := o.file.WriteAt(p, o.at)
	o.at += int64(len(p))
	return err
}

// add appends a chunk.
func (o *chunkFile) add(image Span, p packed, stored bool) error {
	o.chunks = append(o.chunks, chunk{image, Span{o.at, int64(len(p.data))}, p.unpadded, stored})
	return o.write(p.data)
}

// copy appends a chunk of another file of the same format.
func (o *chunkFile) copy(from *os.File, c chunk) error {
	if err := copyRange(o.ctx, o.file.File, from, c.file, o.at); err != nil {
		return err
	}
	c.file.Offset = o.at
	o.chunks = append(o.chunks, c)
	o.at += c.file.Length
	return nil
}

// pieces appends a part of the image: what is variable is stored, what lies
// between is compressed.
func (o *chunkFile) pieces(image io.ReaderAt, part Span, variable []Span) error {
	at, end := part.Offset, part.Offset+part.Length
	for _, v := range append(variable[:len(variable):len(variable)], Span{end, 0}) {
		from := min(max(v.Offset, at), end)
		to := min(max(v.Offset+v.Length, at), end)
		if err := o.piece(image, Span{at, from - at}, false); err != nil {
			return err
		}
		if err := o.piece(image, Span{from, to - from}, true); err != nil {
			return err
		}
		at = to
	}
	return nil
}

func (o *chunkFile) piece(image io.ReaderAt, s Span, stored bool) error {
	if s.Length == 0 {
		return nil
	}
	data := make([]byte, s.Length)
	if n, err := image.ReadAt(data, s.Offset); n < len(data) {
		return err
	}
	if stored {
		return o.add(s, o.codec.store(data), true)
	}
	p, err := packChecked(o.codec, data)
	if err != nil {
		return err
	}
	return o.add(s, p, false)
}

// packChecked compresses a chunk, and unpacks it again: a fault here would
// be in every device.
func packChecked(c codec, data []byte) (packed, error) {
	p, err := c.pack(data)
	if err != nil {
		return p, err
	}
	back, err := c.unpack(p.data, int64(len(data)))
	if err == nil && !bytes.Equal(back, data) {
		err = errors.New("a chunk doesn't unpack to what was compressed")
	}
	return p, err
}

// finish completes the file, makes it durable, and gives it its name.
func (o *chunkFile) finish() (*os.File, int64, error) {
	err := o.write(o.codec.tail(o.chunks))
	if err == nil {
		err = o.file.Sync()
	}
	if err != nil {
		return nil, 0, errors.Join(err, o.discard())
	}
	dst := o.file.dst
	if err := o.folder.release(o.file); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(dst)
	return f, o.at, err
}

// compressIndex is kept beside golden's compressed file, so that the next run
// finds its chunks.
type compressIndex struct {
	Golden string // SHA-256, hexadecimal
	File   string // SHA-256 of the compressed file, hexadecimal
	Bytes  int64  // length of the compressed file
	Chunk  int64  // length of a chunk in the image
	Chunks []int64
	// Unpadded has the lengths of the chunks without padding.
	Unpadded []int64
}

// open finds golden's chunks of an earlier run, or makes them.
func (w *compressWriter) open(ctx context.Context) error {
	sum := w.golden.SHA256()
	name := filepath.Join(w.dir, fmt.Sprintf("%sgolden-%x.%s", tempPrefix, sum[:12], w.name))
	if w.reuse(ctx, name) {
		return w.golden.Unchanged()
	}
	out, err := newChunkFile(ctx, w.folder, name, w.codec)
	if err != nil {
		return err
	}
	if err := out.compress(w.golden); err != nil {
		return errors.Join(err, out.discard())
	}
	if err := w.golden.Unchanged(); err != nil {
		return errors.Join(err, out.discard())
	}
	if w.source, _, err = out.finish(); err != nil {
		return err
	}
	w.chunks = out.chunks
	file, err := sumSource(ctx, w.source, out.at)
	if err != nil {
		return err
	}
	index := compressIndex{Golden: fmt.Sprintf("%x", sum), File: file, Bytes: out.at, Chunk: compressChunk}
	for _, c := range out.chunks {
		index.Chunks = append(index.Chunks, c.file.Length)
		index.Unpadded = append(index.Unpadded, c.unpadded)
	}
	content, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return w.folder.publish(ctx, name+".json", func(f *os.File) error { return writeSynced(f, content) })
}

// sumSource returns the SHA-256 of a file of size bytes, hexadecimal.
func sumSource(ctx context.Context, f *os.File, size int64) (string, error) {
	h := sha256.New()
	err := copyTo(ctx, h, f, 0, size)
	return hex.EncodeToString(h.Sum(nil)), err
}

// reuse opens golden's chunks of an earlier run; it reports whether they fit
// and are whole.
func (w *compressWriter) reuse(ctx context.Context, name string) bool {
	content, err := os.ReadFile(name + ".json")
	if err != nil {
		return false
	}
	var index compressIndex
	if json.Unmarshal(content, &index) != nil || index.Chunk != compressChunk || len(index.Chunks) != len(index.Unpadded) ||
		index.Golden != fmt.Sprintf("%x", w.golden.SHA256()) {
		return false
	}
	size := w.golden.Size()
	at := int64(len(w.head()))
	var chunks []chunk
	for i, n := range index.Chunks {
		from := int64(i) * compressChunk
		if n <= 0 || n > index.Bytes-at || from >= size {
			return false
		}
		chunks = append(chunks, chunk{Span{from, min(compressChunk, size-from)}, Span{at, n}, index.Unpadded[i], false})
		at += n
	}
	if int64(len(chunks))*compressChunk < size {
		return false
	}
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	if sum, err := sumSource(ctx, f, index.Bytes); err != nil || sum != index.File {
		f.Close()
		return false
	}
	w.source, w.chunks = f, chunks
	return true
}

// compress appends the whole image, as many chunks at a time as there are
// processors. Chunks of zeros are compressed once.
func (o *chunkFile) compress(g Image) error {
	group := make([]packed, runtime.GOMAXPROCS(0))
	zeroChunks := make(map[int64]packed)
	for at := int64(0); at < g.Size(); at += compressChunk * int64(len(group)) {
		work, ctx := errgroup.WithContext(o.ctx)
		spans := make([]Span, 0, len(group))
		isZero := make([]bool, len(group))
		for i := range group {
			from := at + int64(i)*compressChunk
			if from >= g.Size() {
				break
			}
			s := Span{from, min(compressChunk, g.Size()-from)}
			spans = append(spans, s)
			known, ok := zeroChunks[s.Length]
			work.Go(func() error {
				data := make([]byte, s.Length)
				if n, err := g.ReadAt(data, s.Offset); n < len(data) {
					return err
				}
				if isZero[i] = allZero(data); isZero[i] && ok {
					group[i] = known
					return ctx.Err()
				}
				p, err := packChecked(o.codec, data)
				group[i] = p
				return errors.Join(err, ctx.Err())
			})
		}
		if err := work.Wait(); err != nil {
			return err
		}
		for i, s := range spans {
			if isZero[i] {
				zeroChunks[s.Length] = group[i]
			}
			if err := o.add(s, group[i], false); err != nil {
				return err
			}
		}
	}
	return nil
}
