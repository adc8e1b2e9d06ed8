package imaging

import (
	"cmp"
	"encoding/hex"
	"slices"
)

// Description is what a template changes in the golden image, for people and
// for gang programmers.
type Description struct {
	GoldenSHA256 string `json:"golden_sha256"`
	GoldenBytes  int64  `json:"golden_bytes"`
	// Files has the range of lengths that the template is for, in bytes.
	Files []FileRange `json:"files"`
	// Constant lists what is the same on all devices: write it once into the
	// master image.
	Constant      []Span `json:"constant"`
	ConstantBytes int64  `json:"constant_bytes"`
	// Fields is the serialization table: what differs between devices.
	Fields      []Field `json:"fields"`
	DeviceBytes int64   `json:"device_bytes"` // the fields' lengths together
}

// FileRange is one file that differs between devices.
type FileRange struct {
	Path  string `json:"path"`
	Least int64  `json:"least_bytes"`
	Most  int64  `json:"most_bytes"`
}

// Field is a run of bytes at a fixed place of the image that differs between
// devices.
type Field struct {
	Offset int64  `json:"offset"` // bytes from the start of the image
	Length int64  `json:"length"` // bytes
	Path   string `json:"path"`   // the file concerned
	Holds  string `json:"holds"`  // "content", "inode" (length and checksum)
}

// Fields returns the template's serialization table, sorted by offset.
func (t *Template) Fields() []Field {
	var out []Field
	for i := range t.Slots {
		slot := &t.Slots[i]
		if slot.Inode == nil || !slot.Inode.Inline {
			for _, s := range slot.Content {
				out = append(out, Field{s.Offset, s.Length, slot.Path, "content"})
			}
		}
		if slot.Inode != nil {
			for _, e := range slot.Inode.patches(slot.Inode.Image) {
				out = append(out, Field{e.Offset, int64(len(e.Data)), slot.Path, "inode"})
			}
		}
	}
	slices.SortFunc(out, func(a, b Field) int { return cmp.Compare(a.Offset, b.Offset) })
	return out
}

// Values returns the device's bytes for each of its template's fields, in their
// order and exactly of their lengths.
func (o *Overlay) Values() [][]byte {
	fields := o.Template.Fields()
	out := make([][]byte, len(fields))
	for i, f := range fields {
		out[i] = make([]byte, f.Length)
		for _, e := range o.Slots {
			overwrite([]Extent{{f.Offset, out[i]}}, e.Offset, e.Data)
		}
	}
	return out
}

// Describe says what the template changes and where.
func (t *Template) Describe() *Description {
	d := &Description{GoldenSHA256: hex.EncodeToString(t.Golden[:]), GoldenBytes: t.GoldenBytes, Fields: t.Fields()}
	for i := range t.Slots {
		least, most := t.Slots[i].lengths()
		d.Files = append(d.Files, FileRange{t.Slots[i].Path, least, most})
	}
	for _, e := range t.Constant {
		d.Constant = append(d.Constant, Span{e.Offset, int64(len(e.Data))})
		d.ConstantBytes += int64(len(e.Data))
	}
	for _, f := range d.Fields {
		d.DeviceBytes += f.Length
	}
	return d
}

// Describe describes the templates made so far.
func (p *Plan) Describe() []*Description {
	var out []*Description
	for _, t := range p.Templates() {
		out = append(out, t.Describe())
	}
	return out
}
