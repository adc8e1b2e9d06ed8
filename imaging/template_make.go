package imaging

import (
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
	select { // the working copies are for one at a time
	case <-ctx.Done():
		return nil, ctx.Err()
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	}
	scratch, err := os.MkdirTemp(p.dir.path, "template-*")
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

// render puts contents into the volume's working copy.
func (p *Plan) render(ctx context.Context, v *volume, scratch string, contents [][]byte) (*rendered, error) {
	work := filepath.Join(p.dir.path, fmt.Sprintf("work-%d", v.partition.Number))
	if !v.restored {
		if err := os.Remove(work); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := copyPart(ctx, v.base, work, 0, v.partition.Bytes); err != nil {
			return nil, fmt.Errorf("copy the partition: %w", err)
		}
	}
	v.restored = false
	if err := v.fs.render(ctx, work, scratch, v.contents(contents)); err != nil {
		return nil, err
	}
	return openRendered(p.golden.path, work, v.partition)
}

// derive adds a volume's constants and slots to the template.
func (p *Plan) derive(ctx context.Context, t *Template, v *volume, scratch string, contents [][]byte) (err error) {
	r, err := p.render(ctx, v, scratch, contents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	differ, err := r.diff(ctx)
	if err != nil {
		return err
	}
	spans := slices.Clone(differ)
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
	return v.restore(r, differ)
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
		if err := p.proveVolume(ctx, v, scratch, contents, patches); err != nil {
			return fmt.Errorf("partition %d: %w", v.partition.Number, err)
		}
	}
	return nil
}

func (p *Plan) proveVolume(ctx context.Context, v *volume, scratch string, contents [][]byte, patches []Extent) (err error) {
	r, err := p.render(ctx, v, scratch, contents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	differ, err := r.diff(ctx)
	if err != nil {
		return err
	}
	if err := r.same(differ, patches); err != nil {
		return err
	}
	return v.restore(r, differ)
}
