package imaging

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
)

// shape is the range of lengths that one file's content can have in a template.
type shape struct{ least, most int64 }

// maxContent bounds one file's content.
const maxContent = 256 << 20

func (p *Plan) shapes(lengths []int64) []shape {
	out := make([]shape, len(lengths))
	for _, v := range p.volumes {
		for _, f := range v.files {
			if f.slot >= 0 {
				out[f.slot].least, out[f.slot].most = v.fs.lengths(lengths[f.slot])
			}
		}
	}
	return out
}

// makeTemplate renders placeholders into copies of the partitions, takes the
// difference to golden for the template, and requires that the template makes
// the same bytes as two further renderings.
func (p *Plan) makeTemplate(ctx context.Context, shapes []shape) (*Template, error) {
	for i, s := range shapes {
		if s.most > maxContent {
			return nil, fmt.Errorf("the content for %s is longer than %d bytes", p.slots[i], maxContent)
		}
	}
	scratch, err := os.MkdirTemp(p.dir, "template-*")
	if err != nil {
		return nil, fmt.Errorf("make a template: %w", err)
	}
	defer os.RemoveAll(scratch)
	t := &Template{Golden: p.golden.sum, GoldenBytes: p.golden.Size(), Slots: make([]Slot, len(p.slots))}
	contents, err := placeholders(shapes, false)
	if err != nil {
		return nil, err
	}
	for _, v := range p.volumes {
		if err := p.derive(ctx, t, v, scratch, contents); err != nil {
			return nil, fmt.Errorf("make a template for partition %d: %w", v.partition.Number, err)
		}
	}
	slices.SortFunc(t.Constant, byOffset)
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("make a template: %w", err)
	}
	for range 2 {
		if contents, err = placeholders(shapes, true); err != nil {
			return nil, err
		}
		if err := p.prove(ctx, t, scratch, contents); err != nil {
			return nil, fmt.Errorf("check the template: %w", err)
		}
	}
	return t, p.golden.Unchanged()
}

// placeholders returns random contents without zero bytes, of the greatest
// length, or of a random one.
func placeholders(shapes []shape, vary bool) ([][]byte, error) {
	out := make([][]byte, len(shapes))
	for i, s := range shapes {
		length := s.most
		if vary && s.least < s.most {
			n, err := rand.Int(rand.Reader, big.NewInt(s.most-s.least+1))
			if err != nil {
				return nil, err
			}
			length = s.least + n.Int64()
		}
		out[i] = make([]byte, length)
		rand.Read(out[i])
		for k := range out[i] {
			out[i][k] |= 1 // zeros would become holes
		}
	}
	return out, nil
}

// rendered is a partition with files in it, next to the golden image.
type rendered struct {
	golden, work *os.File
	partition    *Partition
}

func (r *rendered) close() error {
	return errors.Join(r.golden.Close(), r.work.Close(), os.Remove(r.work.Name()))
}

// contents returns the contents of the volume's files.
func (v *volume) contents(slots [][]byte) [][]byte {
	out := make([][]byte, len(v.files))
	for i, f := range v.files {
		if out[i] = f.Fixed; f.slot >= 0 {
			out[i] = slots[f.slot]
		}
	}
	return out
}

// render puts contents into a new copy of the volume.
func (p *Plan) render(ctx context.Context, v *volume, scratch string, contents [][]byte) (*rendered, error) {
	work := filepath.Join(scratch, "work")
	if err := copyPart(ctx, v.base, work, 0, v.partition.Bytes); err != nil {
		return nil, fmt.Errorf("copy the partition: %w", err)
	}
	if err := v.fs.render(ctx, work, scratch, v.contents(contents)); err != nil {
		return nil, err
	}
	r := &rendered{partition: v.partition}
	var err error
	if r.golden, err = os.Open(p.golden.path); err != nil {
		return nil, err
	}
	if r.work, err = os.Open(work); err != nil {
		return nil, errors.Join(err, r.golden.Close())
	}
	return r, nil
}

// derive adds a volume's constants and slots to the template.
func (p *Plan) derive(ctx context.Context, t *Template, v *volume, scratch string, contents [][]byte) (err error) {
	r, err := p.render(ctx, v, scratch, contents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	spans, err := r.diff(ctx)
	if err != nil {
		return err
	}
	for i, content := range v.contents(contents) {
		f := &v.files[i]
		slot, err := v.fs.slot(r.work, i, content)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if f.slot < 0 {
			continue
		}
		slot.Path = f.Path
		spans = append(spans, slot.Content...)
		if slot.Inode != nil {
			spans = append(spans, Span{slot.Inode.Offset, int64(slot.Inode.Size)})
		}
		t.Slots[f.slot] = slot
	}
	constants, err := r.extents(spans)
	if err != nil {
		return err
	}
	for _, f := range v.files {
		if f.slot < 0 {
			continue
		}
		slot := &t.Slots[f.slot]
		if slot.Inode != nil {
			overwrite(constants, slot.Inode.Offset, slot.Inode.Image)
			slot.Inode.Offset += v.partition.Offset
		}
		for k := range slot.Content {
			s := &slot.Content[k]
			overwrite(constants, s.Offset, make([]byte, s.Length))
			s.Offset += v.partition.Offset
		}
	}
	for _, e := range constants {
		t.Constant = append(t.Constant, Extent{e.Offset + v.partition.Offset, e.Data})
	}
	return nil
}

// diffUnit is the grain at which differences are recorded: a sector.
const diffUnit = 512

// diff returns where the rendered partition differs from golden, with offsets
// in the partition.
func (r *rendered) diff(ctx context.Context) ([]Span, error) {
	size := r.partition.Bytes
	places, err := dataWithin(r.work, 0, size)
	if err != nil {
		return nil, err
	}
	golden, err := dataWithin(r.golden, r.partition.Offset, r.partition.Offset+size)
	if err != nil {
		return nil, err
	}
	for _, s := range golden {
		places = append(places, Span{s.Offset - r.partition.Offset, s.Length})
	}
	var out []Span
	a, b := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for _, s := range mergeSpans(places, diffUnit, size) {
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += copyBuffer {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n := min(copyBuffer, end-at)
			if err := errors.Join(readFull(r.golden, a[:n], r.partition.Offset+at), readFull(r.work, b[:n], at)); err != nil {
				return nil, err
			}
			if bytes.Equal(a[:n], b[:n]) {
				continue
			}
			for i := int64(0); i < n; i += diffUnit {
				if to := min(i+diffUnit, n); !bytes.Equal(a[i:to], b[i:to]) {
					out = append(out, Span{at + i, to - i})
				}
			}
		}
	}
	return out, nil
}

// mergeSpans widens spans to multiples of unit, but not beyond size, sorts
// them, and joins those that touch or overlap.
func mergeSpans(spans []Span, unit, size int64) []Span {
	wide := make([]Span, 0, len(spans))
	for _, s := range spans {
		from := s.Offset / unit * unit
		to := min((s.Offset+s.Length+unit-1)/unit*unit, size)
		if from < to {
			wide = append(wide, Span{from, to - from})
		}
	}
	slices.SortFunc(wide, func(a, b Span) int { return byOffset(Extent{Offset: a.Offset}, Extent{Offset: b.Offset}) })
	var out []Span
	for _, s := range wide {
		if k := len(out) - 1; k >= 0 && s.Offset <= out[k].Offset+out[k].Length {
			out[k].Length = max(out[k].Length, s.Offset+s.Length-out[k].Offset)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// extents reads spans of the rendered partition, merged.
func (r *rendered) extents(spans []Span) ([]Extent, error) {
	var out []Extent
	for _, s := range mergeSpans(spans, diffUnit, r.partition.Bytes) {
		data := make([]byte, s.Length)
		if err := readFull(r.work, data, s.Offset); err != nil {
			return nil, err
		}
		out = append(out, Extent{s.Offset, data})
	}
	return out, nil
}

// overwrite lays data at an offset over the extents.
func overwrite(extents []Extent, offset int64, data []byte) {
	for _, e := range extents {
		from, to := max(offset, e.Offset), min(offset+int64(len(data)), e.Offset+int64(len(e.Data)))
		if from < to {
			copy(e.Data[from-e.Offset:to-e.Offset], data[from-offset:])
		}
	}
}

// prove requires that the template, filled with contents, makes the bytes that
// rendering them makes.
func (p *Plan) prove(ctx context.Context, t *Template, scratch string, contents [][]byte) error {
	o, err := t.Fill(contents)
	if err != nil {
		return err
	}
	patches := o.Extents()
	for _, v := range p.volumes {
		r, err := p.render(ctx, v, scratch, contents)
		if err != nil {
			return err
		}
		if err := errors.Join(r.same(ctx, patches), r.close()); err != nil {
			return fmt.Errorf("partition %d: %w", v.partition.Number, err)
		}
	}
	return nil
}

// same compares golden with patches to the rendered partition.
func (r *rendered) same(ctx context.Context, patches []Extent) error {
	spans, err := r.diff(ctx)
	if err != nil {
		return err
	}
	base, end := r.partition.Offset, r.partition.Offset+r.partition.Bytes
	for _, e := range patches {
		if e.Offset >= base && e.Offset < end {
			spans = append(spans, Span{e.Offset - base, int64(len(e.Data))})
		}
	}
	for _, s := range mergeSpans(spans, diffUnit, r.partition.Bytes) {
		want, got := make([]byte, s.Length), make([]byte, s.Length)
		if err := errors.Join(readFull(r.work, want, s.Offset), readFull(r.golden, got, base+s.Offset)); err != nil {
			return err
		}
		for _, e := range patches {
			overwrite([]Extent{{base + s.Offset, got}}, e.Offset, e.Data)
		}
		if !bytes.Equal(want, got) {
			return fmt.Errorf("this file system cannot be patched: at byte %d it differs from one that e2fsprogs wrote", s.Offset)
		}
	}
	return nil
}
