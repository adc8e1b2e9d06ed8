package imaging

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // block maps before version 1.4 have SHA-1
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Which bytes of golden matter on a medium. Holes of a file say nothing about
// that: they come from cp, dd conv=sparse or unpacking as well as from a build,
// and what a used medium holds there would show in files and tables. Only a block
// map that was made together with golden knows.

// maxBlockMap bounds what is read of a block map, in bytes.
const maxBlockMap = 64 << 20

// blockMap is golden's own block map.
type blockMap struct {
	path   string
	ranges []mapRange // sorted
}

// mapRange is what one range of a block map says.
type mapRange struct {
	Span
	sum string // hexadecimal
	new func() hash.Hash
}

// findBlockMap looks for golden's block map as bmaptool does: NAME.bmap, and the
// same with each extension of NAME taken away. nil: there is none.
func findBlockMap(name string, size int64) (*blockMap, error) {
	for {
		path := name + bmapSuffix
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() {
			return readBlockMap(path, size)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		extension := filepath.Ext(name)
		if extension == "" {
			return nil, nil
		}
		name = strings.TrimSuffix(name, extension)
	}
}

func readBlockMap(path string, size int64) (*blockMap, error) {
	const remedy = "Make it anew (bmaptool create), or take it away: then all of golden is written."
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxBlockMap {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	var ranges []mapRange
	if err == nil {
		ranges, err = parseBlockMap(data, size)
	}
	if err != nil {
		return nil, refuse(remedy, "the block map %s beside the golden image cannot be used: %w", path, err)
	}
	return &blockMap{path, ranges}, nil
}

// parseBlockMap reads a block map of version 1.0 to 2.0 as bmaptool's
// documentation describes it, for an image of size bytes.
func parseBlockMap(data []byte, size int64) ([]mapRange, error) {
	var m struct {
		Version   string `xml:"version,attr"`
		ImageSize string
		BlockSize string
		Mapped    string `xml:"MappedBlocksCount"`
		Type      string `xml:"ChecksumType"`
		Sum       string `xml:"BmapFileChecksum"`
		SHA1      string `xml:"BmapFileSHA1"`
		Ranges    []struct {
			Sum    string `xml:"chksum,attr"`
			SHA1   string `xml:"sha1,attr"`
			Blocks string `xml:",chardata"`
		} `xml:"BlockMap>Range"`
	}
	if err := xml.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	if got := number(m.ImageSize); got != size {
		return nil, fmt.Errorf("it is for an image of %d bytes, not of %d", got, size)
	}
	block, mapped := number(m.BlockSize), number(m.Mapped)
	if block < 512 || block > 64<<20 {
		return nil, errors.New("its block size is impossible")
	}
	sums := map[string]func() hash.Hash{"": sha1.New, "sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}
	newHash := sums[strings.TrimSpace(m.Type)]
	if newHash == nil {
		return nil, fmt.Errorf("checksums of type %.20q are unknown", m.Type)
	}
	if own := strings.TrimSpace(m.Sum + m.SHA1); own != "" && !mapSumHolds(data, own, newHash) {
		return nil, errors.New("its own checksum is wrong")
	}
	blocks := (size + block - 1) / block
	var out []mapRange
	var at int64
	for _, r := range m.Ranges {
		from, to, two := strings.Cut(strings.TrimSpace(r.Blocks), "-")
		first, last := number(from), number(from)
		if two {
			last = number(to)
		}
		if first < at || last < first || last >= blocks {
			return nil, fmt.Errorf("its range %.40q is impossible", r.Blocks)
		}
		at = last + 1
		mapped -= last - first + 1
		start := first * block
		out = append(out, mapRange{Span{start, min((last+1)*block, size) - start}, strings.TrimSpace(r.Sum + r.SHA1), newHash})
	}
	if mapped != 0 {
		return nil, errors.New("its ranges have another number of blocks than it says")
	}
	return out, nil
}

// mapSumHolds compares a block map's own checksum, which is computed with zeros
// in its place.
func mapSumHolds(data []byte, own string, newHash func() hash.Hash) bool {
	i := bytes.Index(data, []byte(own))
	if i < 0 {
		return false
	}
	h := newHash()
	h.Write(data[:i])
	h.Write(bytes.Repeat([]byte("0"), len(own)))
	h.Write(data[i+len(own):])
	return hex.EncodeToString(h.Sum(nil)) == own
}

// matter returns the map's ranges, after it has compared their checksums with the
// image. Without checksums a map proves nothing, and the whole image matters.
func (m *blockMap) matter(ctx context.Context, g *Golden) ([]Span, error) {
	var spans []Span
	for _, r := range m.ranges {
		if r.sum == "" {
			return []Span{{0, g.Size()}}, nil
		}
		h := r.new()
		if err := copyTo(ctx, h, g, r.Offset, r.Offset+r.Length); err != nil {
			return nil, err
		}
		if hex.EncodeToString(h.Sum(nil)) != r.sum {
			return nil, refuse("Make it anew (bmaptool create), or take it away: then all of golden is written.",
				"the block map %s doesn't belong to the golden image: bytes %d to %d have another checksum", m.path, r.Offset, r.Offset+r.Length)
		}
		spans = append(spans, r.Span)
	}
	return joinSpans(spans), nil
}

// Matter returns the ranges of the image that must reach a medium, sorted and
// not touching: what the block map beside the golden image names, else the whole
// image. Zeros matter; holes of the file mean nothing. The first call compares
// the block map with the image.
func (g *Golden) Matter(ctx context.Context) ([]Span, error) {
	g.matterMu.Lock()
	defer g.matterMu.Unlock()
	if g.matterKnown {
		return g.matterSpans, nil
	}
	spans := []Span{{0, g.Size()}}
	if g.blockMap != nil {
		var err error
		if spans, err = g.blockMap.matter(ctx, g); err != nil {
			return nil, err
		}
	}
	g.matterSpans, g.matterKnown = spans, true
	return spans, nil
}

// joinSpans sorts spans and joins those that touch or overlap.
func joinSpans(spans []Span) []Span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []Span
	for _, s := range spans {
		if s.Length <= 0 {
			continue
		}
		if last := len(out) - 1; last >= 0 && s.Offset <= out[last].Offset+out[last].Length {
			out[last].Length = max(out[last].Length, s.Offset+s.Length-out[last].Offset)
			continue
		}
		out = append(out, s)
	}
	return out
}

// widenSpans returns whole blocks that cover spans, within size bytes, joined.
func widenSpans(spans []Span, block, size int64) []Span {
	out := make([]Span, 0, len(spans))
	for _, s := range spans {
		if s.Length <= 0 {
			continue
		}
		from := s.Offset / block * block
		to := min((s.Offset+s.Length+block-1)/block*block, size)
		out = append(out, Span{from, to - from})
	}
	return joinSpans(out)
}

// without returns what is left of spans when the spans of cut are taken out; both
// are sorted and joined.
func without(spans, cut []Span) []Span {
	var out []Span
	for _, s := range spans {
		at, end := s.Offset, s.Offset+s.Length
		for _, c := range cut {
			if c.Offset >= end || c.Offset+c.Length <= at {
				continue
			}
			if c.Offset > at {
				out = append(out, Span{at, c.Offset - at})
			}
			at = min(c.Offset+c.Length, end)
		}
		if at < end {
			out = append(out, Span{at, end - at})
		}
	}
	return out
}

// within returns what spans have in common with [from, to).
func within(spans []Span, from, to int64) []Span {
	var out []Span
	for _, s := range spans {
		a, b := max(s.Offset, from), min(s.Offset+s.Length, to)
		if a < b {
			out = append(out, Span{a, b - a})
		}
	}
	return out
}
