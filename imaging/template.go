package imaging

import (
	"fmt"
	"io"
	"slices"
)

// capacity returns the number of content bytes that the slot has room for.
func (s *Slot) capacity() int64 {
	var sum int64
	for _, span := range s.Content {
		sum += span.Length
	}
	return sum
}

// lengths returns the least and the greatest length of the slot's content.
func (s *Slot) lengths() (least, most int64) {
	if s.Inode == nil {
		return s.Bytes, s.Bytes
	}
	return s.Shortest, s.capacity()
}

// Fits tells whether the template is the one for contents of these lengths.
func (t *Template) Fits(contents [][]byte) bool {
	if len(contents) != len(t.Slots) {
		return false
	}
	for i := range t.Slots {
		least, most := t.Slots[i].lengths()
		if n := int64(len(contents[i])); n < least || n > most {
			return false
		}
	}
	return true
}

// Fill returns the overlay of one device. contents has one entry for each slot,
// in the order of the targets. They are copied, so that the caller can wipe
// them. It fails when a content's length is not one that the template is for.
func (t *Template) Fill(contents [][]byte) (*Overlay, error) {
	if len(contents) != len(t.Slots) {
		return nil, fmt.Errorf("the template has %d slots, not %d", len(t.Slots), len(contents))
	}
	total, pieces := 0, 0
	for i := range t.Slots {
		slot := &t.Slots[i]
		least, most := slot.lengths()
		if n := int64(len(contents[i])); n < least || n > most {
			return nil, fmt.Errorf("the template's content for %s has %d to %d bytes, not %d", slot.Path, least, most, n)
		}
		total += len(contents[i])
		pieces += len(slot.Content) + 2
		if slot.Inode != nil {
			total += slot.Inode.Size
		}
	}
	f := filler{buf: make([]byte, 0, total), out: make([]Extent, 0, pieces)}
	for i := range t.Slots {
		f.fill(&t.Slots[i], contents[i])
	}
	slices.SortFunc(f.out, byOffset)
	return &Overlay{Template: t, Slots: f.out}, nil
}

// filler collects one device's extents in one buffer, which never grows.
type filler struct {
	buf []byte
	out []Extent
}

func (f *filler) take(p []byte) []byte {
	from := len(f.buf)
	f.buf = append(f.buf, p...)
	return f.buf[from:len(f.buf):len(f.buf)]
}

func (f *filler) fill(slot *Slot, content []byte) {
	inode := slot.Inode
	var image []byte
	if inode != nil {
		image = f.take(inode.Image)
		inode.setLength(image, int64(len(content)))
	}
	for _, span := range slot.Content {
		n := min(span.Length, int64(len(content)))
		if n == 0 {
			break
		}
		if inode != nil && inode.Inline {
			copy(image[span.Offset-inode.Offset:], content[:n])
		} else {
			f.out = append(f.out, Extent{span.Offset, f.take(content[:n])})
		}
		content = content[n:]
	}
	if inode != nil {
		inode.setChecksum(image)
		f.out = append(f.out, inode.patches(image)...)
	}
}

func byOffset(a, b Extent) int {
	switch {
	case a.Offset < b.Offset:
		return -1
	case a.Offset > b.Offset:
		return 1
	}
	return 0
}

// Extents returns what must be written over golden: the template's constants
// with the device's slots laid over them, sorted by offset, not overlapping.
// The data is shared with overlay and template, so it must not be changed.
func (o *Overlay) Extents() []Extent {
	out := make([]Extent, 0, len(o.Template.Constant)+2*len(o.Slots))
	slots := o.Slots
	for _, c := range o.Template.Constant {
		end := c.Offset + int64(len(c.Data))
		for len(slots) > 0 && slots[0].Offset < end {
			if before := slots[0].Offset - c.Offset; before > 0 {
				out = append(out, Extent{c.Offset, c.Data[:before:before]})
				c = Extent{slots[0].Offset, c.Data[before:]}
			}
			out = append(out, slots[0])
			slotEnd := slots[0].Offset + int64(len(slots[0].Data))
			slots = slots[1:]
			skip := min(max(slotEnd-c.Offset, 0), int64(len(c.Data)))
			c = Extent{c.Offset + skip, c.Data[skip:]}
		}
		if len(c.Data) > 0 {
			out = append(out, c)
		}
	}
	return append(out, slots...)
}

// ReadContent reads the file of slot i back from a device's image, which r
// shows. It believes the length that the image's inode states, as a running
// device would. The error says when that is impossible.
func ReadContent(t *Template, i int, r io.ReaderAt) ([]byte, error) {
	if i < 0 || i >= len(t.Slots) {
		return nil, fmt.Errorf("the template has no slot %d", i)
	}
	slot := &t.Slots[i]
	least, most := slot.lengths()
	length := slot.Bytes
	if slot.Inode != nil {
		inode := make([]byte, slot.Inode.Size)
		if _, err := r.ReadAt(inode, slot.Inode.Offset); err != nil {
			return nil, fmt.Errorf("read the inode of %s: %w", slot.Path, err)
		}
		length = slot.Inode.length(inode)
	}
	if length < least || length > most {
		return nil, fmt.Errorf("%s has %d bytes in the image, not %d to %d", slot.Path, length, least, most)
	}
	content := make([]byte, length)
	rest := content
	for _, span := range slot.Content {
		n := min(span.Length, int64(len(rest)))
		if n == 0 {
			break
		}
		if _, err := r.ReadAt(rest[:n], span.Offset); err != nil {
			return nil, fmt.Errorf("read the content of %s: %w", slot.Path, err)
		}
		rest = rest[n:]
	}
	return content, nil
}
