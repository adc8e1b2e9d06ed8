package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// What a medium can hold before it is written.
const (
	MediumBlank   = "blank"   // nothing that is known
	MediumFAT     = "fat"     // one FAT or exFAT partition, as media are sold
	MediumUnit    = "unit"    // the marker of a unit whose writing was interrupted
	MediumImage   = "image"   // this device's image: its own bytes, and the first MiB
	MediumGolden  = "golden"  // the disk signature of the golden image: some device of this image
	MediumForeign = "foreign" // anything else: several partitions, other file systems
)

// MediumContents says what a medium holds.
type MediumContents struct {
	Kind   string   `json:"kind"`
	Marker [16]byte `json:"-"`      // of a unit
	Detail string   `json:"detail"` // for people
}

// Spare reports whether nobody would miss what is there.
func (c MediumContents) Spare() bool { return c.Kind == MediumBlank || c.Kind == MediumFAT }

// Contents looks at what the medium holds. With golden it knows that image's disk
// signature, with an overlay that device's image, too; both may be nil.
func (m *Medium) Contents(ctx context.Context, g Image, o *Overlay) (MediumContents, error) {
	c, err := m.contents(ctx, g, o)
	if err != nil {
		return c, fmt.Errorf("look at what the medium holds: %w", err)
	}
	return c, nil
}

func (m *Medium) contents(ctx context.Context, g Image, o *Overlay) (MediumContents, error) {
	if m.size < mediumBlock {
		return MediumContents{Kind: MediumBlank, Detail: "it is empty"}, nil
	}
	marker, found, err := readMarker(m)
	if err != nil {
		return MediumContents{}, err
	}
	if found {
		return MediumContents{Kind: MediumUnit, Marker: marker, Detail: fmt.Sprintf("the writing of unit %x was interrupted", marker)}, nil
	}
	if g != nil && o != nil {
		if same, err := m.holds(ctx, g, o); err != nil || same {
			return MediumContents{Kind: MediumImage, Detail: "it holds this device's image"}, err
		}
	}
	t, err := readTable(m, m.size, 0)
	switch {
	case errors.Is(err, errNoTable):
		return MediumContents{Kind: MediumBlank, Detail: "it has no partition table"}, nil
	case err != nil:
		if failed := readFull(m, make([]byte, mediumBlock), 0); failed != nil {
			return MediumContents{}, failed
		}
		return MediumContents{Kind: MediumForeign, Detail: err.Error()}, nil
	}
	if g != nil {
		if own, err := readTable(g, g.Size(), 0); err == nil && own.ID != "" && own.ID == t.ID {
			return MediumContents{Kind: MediumGolden, Detail: "it bears the golden image's disk signature " + t.ID + ": some device's image is on it"}, nil
		}
	}
	if len(t.Partitions) == 1 {
		switch t.Partitions[0].FileSystem {
		case "vfat", "exfat":
			return MediumContents{Kind: MediumFAT, Detail: "one partition: " + t.list()}, nil
		case "":
			if t.Partitions[0].Type == "0x0b" || t.Partitions[0].Type == "0x0c" || t.Partitions[0].Type == "0x07" {
				return MediumContents{Kind: MediumFAT, Detail: "one partition that was never formatted"}, nil
			}
		}
	}
	return MediumContents{Kind: MediumForeign, Detail: fmt.Sprintf("%d partitions: %s", len(t.Partitions), t.list())}, nil
}

// holds reports whether the medium has the device's own bytes, and the image's
// beginning.
func (m *Medium) holds(ctx context.Context, g Image, o *Overlay) (bool, error) {
	r, err := NewReader(g, o)
	if err != nil {
		return false, err
	}
	if m.size < r.size {
		return false, nil
	}
	var spans []Span
	for _, e := range o.Slots {
		spans = append(spans, Span{e.Offset, int64(len(e.Data))})
	}
	for _, s := range append(widenSpans(spans, mediumBlock, r.size), Span{0, min(mediumHead, r.size)}) {
		want, got := make([]byte, s.Length), make([]byte, s.Length)
		if err := errors.Join(ctx.Err(), readFull(r, want, s.Offset)); err != nil {
			return false, err
		}
		if err := readFull(m, got, s.Offset); err != nil {
			return false, err
		}
		same := bytes.Equal(want, got)
		clear(want)
		clear(got)
		if !same {
			return false, nil
		}
	}
	return len(spans) > 0, nil
}
