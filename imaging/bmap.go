package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
)

// The format bmap is a sparse file with the device's blocks at their places,
// and a block map, version 2.0 as bmaptool's documentation describes it, which
// names the blocks to write. `bmaptool copy` writes golden first, with
// the block map that Open leaves beside the devices' files, then the device's.

const (
	bmapSuffix = ".bmap"
	bmapMost   = 64 << 10 // blocks that a device's ranges have at most
)

var errBmap = errors.New("not a block map of keymill's making")

func openBmap(ctx context.Context, g Image, dir string) (Writer, error) {
	spans, err := g.Matter(ctx)
	if err != nil {
		return nil, err
	}
	ranges, err := sumRanges(ctx, g, widenSpans(spans, deltaBlock, g.Size()))
	if err != nil {
		return nil, err
	}
	content := marshalBmap(g.Size(), ranges)
	dst := filepath.Join(dir, filepath.Base(g.Path())+bmapSuffix)
	err = newFolderSync().publish(ctx, dst, func(f *os.File) error { return writeSynced(f, content) })
	if err != nil {
		return nil, err
	}
	return newDeltaWriter(g, deltaCodec{
		block:   func(int64) int64 { return deltaBlock },
		encode:  func(g Image, blocks []Extent) ([]Extent, int64, error) { return blocks, g.Size(), nil },
		decode:  decodeBmap,
		suffix:  bmapSuffix,
		sidecar: bmapOf,
	})
}

// bmapRange is a range of blocks, both ends included, and its SHA-256.
type bmapRange struct {
	first, last int64
	sum         [sha256.Size]byte
}

// bmapPiece bounds a range, in bytes, so that several can be summed at once.
const bmapPiece = 64 << 20

// sumRanges returns block ranges for spans of whole blocks, with their
// checksums.
func sumRanges(ctx context.Context, image io.ReaderAt, spans []Span) ([]bmapRange, error) {
	var pieces []Span
	for _, s := range spans {
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += bmapPiece {
			pieces = append(pieces, Span{at, min(bmapPiece, end-at)})
		}
	}
	ranges := make([]bmapRange, len(pieces))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range pieces {
		work.Go(func() error {
			h := sha256.New()
			if err := copyTo(ctx, h, image, s.Offset, s.Offset+s.Length); err != nil {
				return err
			}
			ranges[i] = bmapRange{first: s.Offset / deltaBlock, last: (s.Offset + s.Length - 1) / deltaBlock}
			h.Sum(ranges[i].sum[:0])
			return nil
		})
	}
	return ranges, work.Wait()
}

// bmapOf returns the block map of a device's file.
func bmapOf(g Image, blocks []Extent) []byte {
	var ranges []bmapRange
	for _, b := range blocks {
		ranges = append(ranges, bmapRange{
			first: b.Offset / deltaBlock,
			last:  (b.Offset + int64(len(b.Data)) - 1) / deltaBlock,
			sum:   sha256.Sum256(b.Data),
		})
	}
	return marshalBmap(g.Size(), ranges)
}

// marshalBmap writes a block map. Its own checksum is computed with zeros in
// the checksum's place.
func marshalBmap(size int64, ranges []bmapRange) []byte {
	var mapped int64
	for _, r := range ranges {
		mapped += r.last - r.first + 1
	}
	zeros := strings.Repeat("0", 2*sha256.Size)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> %s </BmapFileChecksum>
    <BlockMap>
`, size, deltaBlock, (size+deltaBlock-1)/deltaBlock, mapped, zeros)
	for _, r := range ranges {
		fmt.Fprintf(&b, "        <Range chksum=\"%x\"> %d-%d </Range>\n", r.sum, r.first, r.last)
	}
	b.WriteString("    </BlockMap>\n</bmap>\n")
	out := b.Bytes()
	sum := sha256.Sum256(out)
	copy(out[bytes.Index(out, []byte(zeros)):], hex.EncodeToString(sum[:]))
	return out
}

// bmapFile is what decodeBmap reads of a block map.
type bmapFile struct {
	ImageSize string `xml:"ImageSize"`
	Ranges    []struct {
		Sum    string `xml:"chksum,attr"`
		Blocks string `xml:",chardata"`
	} `xml:"BlockMap>Range"`
}

// decodeBmap reads the blocks that the block map beside f names, and compares
// their checksums.
func decodeBmap(f *os.File, sidecar string, size int64) ([]Extent, error) {
	data, err := os.ReadFile(sidecar)
	if err != nil {
		return nil, err
	}
	return parseBmap(data, f, size)
}

func parseBmap(data []byte, f io.ReaderAt, size int64) ([]Extent, error) {
	var m bmapFile
	if err := xml.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errBmap, err)
	}
	if strings.TrimSpace(m.ImageSize) != fmt.Sprint(size) {
		return nil, fmt.Errorf("%w: it is for an image of another length", errBmap)
	}
	var blocks []Extent
	var total int64
	for _, r := range m.Ranges {
		var first, last int64
		if _, err := fmt.Sscanf(strings.TrimSpace(r.Blocks), "%d-%d", &first, &last); err != nil ||
			first < 0 || last < first || last > (size-1)/deltaBlock || last-first >= bmapMost-total {
			return nil, fmt.Errorf("%w: range %q", errBmap, r.Blocks)
		}
		total += last - first + 1
		data := make([]byte, min((last+1)*deltaBlock, size)-first*deltaBlock)
		if _, err := f.ReadAt(data, first*deltaBlock); err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != r.Sum {
			return nil, fmt.Errorf("blocks %d-%d don't match their checksum", first, last)
		}
		blocks = append(blocks, Extent{first * deltaBlock, data})
	}
	return blocks, nil
}
