package imaging

import (
	"context"
	"crypto/sha256"
	"sync"
)

// mapMaker makes block maps of devices' whole images. What is the same for all
// devices of a template is summed once; a device costs its own few blocks. Safe for
// use by many goroutines at once.
type mapMaker struct {
	golden Image

	mu   sync.Mutex // guards the map
	maps map[*Template]*templateMap
}

// templateMap is what the block maps of a template's devices share.
type templateMap struct {
	mu     sync.Mutex // held while it is made
	ready  bool
	common []bmapRange // without those of own
	own    []Span      // whole blocks in which devices differ
}

// mapOf returns the block map of a device's image.
func (m *mapMaker) mapOf(ctx context.Context, o *Overlay) ([]byte, error) {
	shared, err := m.of(ctx, o.Template)
	if err != nil {
		return nil, err
	}
	image := newReader(m.golden, m.golden.Size(), o.Extents())
	ranges := make([]bmapRange, 0, len(shared.common)+len(shared.own))
	rest := shared.common
	for _, s := range shared.own {
		r := bmapRange{first: s.Offset / deltaBlock, last: (s.Offset + s.Length - 1) / deltaBlock}
		h := sha256.New()
		if err := copyTo(ctx, h, image, s.Offset, s.Offset+s.Length); err != nil {
			return nil, err
		}
		h.Sum(r.sum[:0])
		for len(rest) > 0 && rest[0].first < r.first {
			ranges, rest = append(ranges, rest[0]), rest[1:]
		}
		ranges = append(ranges, r)
	}
	return marshalBmap(m.golden.Size(), append(ranges, rest...)), nil
}

// of returns the template's part, made when first needed.
func (m *mapMaker) of(ctx context.Context, t *Template) (*templateMap, error) {
	m.mu.Lock()
	if m.maps == nil {
		m.maps = make(map[*Template]*templateMap)
	}
	s := m.maps[t]
	if s == nil {
		s = new(templateMap)
		m.maps[t] = s
	}
	m.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		return s, nil
	}
	size := m.golden.Size()
	all, err := m.golden.Matter(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range t.Constant {
		all = append(all[:len(all):len(all)], Span{e.Offset, int64(len(e.Data))})
	}
	own := widenSpans(t.variable(), deltaBlock, size)
	common := without(widenSpans(all, deltaBlock, size), own)
	if s.common, err = sumRanges(ctx, newReader(m.golden, size, t.Constant), common); err != nil {
		return nil, err
	}
	s.own, s.ready = own, true
	return s, nil
}
