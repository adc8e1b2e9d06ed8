package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// rendered is a partition with files in it, next to the golden image.
type rendered struct {
	golden, work *os.File
	partition    *Partition
}

func openRendered(golden, work string, partition *Partition) (*rendered, error) {
	r := &rendered{partition: partition}
	var err error
	if r.golden, err = os.Open(golden); err != nil {
		return nil, err
	}
	if r.work, err = os.OpenFile(work, os.O_RDWR, 0); err != nil {
		return nil, errors.Join(err, r.golden.Close())
	}
	return r, nil
}

func (r *rendered) close() error { return errors.Join(r.golden.Close(), r.work.Close()) }

// restore makes the rendered partition like base again, so that it need not be
// copied anew. Where neither it nor base differs from golden, both are alike.
func (v *volume) restore(r *rendered, differ []Span) error {
	base, err := os.Open(v.base)
	if err != nil {
		return err
	}
	defer base.Close()
	for _, s := range mergeSpans(append(slices.Clone(differ), v.repaired...), diffUnit, v.partition.Bytes) {
		data := make([]byte, s.Length)
		if err := readFull(base, data, s.Offset); err != nil {
			return err
		}
		if _, err := r.work.WriteAt(data, s.Offset); err != nil {
			return err
		}
	}
	v.restored = true
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

// same compares golden with patches to the rendered partition, which differs
// from golden in spans.
func (r *rendered) same(differ []Span, patches []Extent) error {
	spans := slices.Clone(differ)
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
