package imaging

import (
	"bytes"
	"crypto/rand"
	"reflect"
	"strings"
	"testing"
)

// someTemplate has an ext4 slot of two pieces, an inline slot and a fixed one.
func someTemplate() *Template {
	image := make([]byte, 256)
	image[extExtraSize] = 32
	return &Template{
		GoldenBytes: 1 << 20,
		Constant:    []Extent{{0, bytes.Repeat([]byte{1}, 512)}, {4096, make([]byte, 4096)}, {65536, make([]byte, 1024)}},
		Slots: []Slot{
			{Path: "/data/a", Content: []Span{{6144, 1024}, {5120, 1024}}, Shortest: 1025,
				Inode: &InodeSlot{Offset: 4096, Size: 256, Kind: InodeExt, Image: image, Checksum: true, Seed: 7}},
			{Path: "/data/b", Content: []Span{{4392, 60}, {4500, 10}}, Shortest: 70,
				Inode: &InodeSlot{Offset: 4352, Size: 256, Kind: InodeExt, Image: image, Checksum: true, Seed: 8, Inline: true}},
			{Path: "/data/c", Content: []Span{{65536, 100}}, Bytes: 100},
		},
	}
}

func someContents() [][]byte {
	out := [][]byte{make([]byte, 1500), make([]byte, 70), make([]byte, 100)}
	for _, b := range out {
		rand.Read(b)
	}
	return out
}

// memory is an image in memory.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) { return copy(p, m[off:]), nil }

func TestFillAndReadBack(t *testing.T) {
	template, contents := someTemplate(), someContents()
	if err := template.check(); err != nil {
		t.Fatal(err)
	}
	o, err := template.Fill(contents)
	if err != nil {
		t.Fatal(err)
	}
	image := make(memory, template.GoldenBytes)
	end := int64(0)
	for _, e := range o.Extents() {
		if e.Offset < end || len(e.Data) == 0 {
			t.Errorf("extent at %d overlaps, or is empty", e.Offset)
		}
		end = e.Offset + int64(copy(image[e.Offset:], e.Data))
	}
	for i, want := range contents {
		if got, err := ReadContent(template, i, image); err != nil || !bytes.Equal(got, want) {
			t.Errorf("slot %d: %d bytes, %v", i, len(got), err)
		}
	}
	if image[0] != 1 {
		t.Error("constants are missing")
	}
	for i := range contents[0] {
		contents[0][i] = 0 // the caller wipes
	}
	if got, err := ReadContent(template, 0, image); err != nil || bytes.Equal(got, contents[0]) {
		t.Error("the overlay shares the caller's memory")
	}
}

func TestFillRefusesOtherLengths(t *testing.T) {
	for i, length := range []int{1024, 2049, 69, 71, 99, 101} {
		contents := someContents()
		contents[i/2] = make([]byte, length)
		template := someTemplate()
		if _, err := template.Fill(contents); err == nil || template.Fits(contents) {
			t.Errorf("slot %d took %d bytes", i/2, length)
		}
	}
	if _, err := someTemplate().Fill(nil); err == nil {
		t.Error("no contents taken")
	}
}

func TestReadContentDistrustsTheInode(t *testing.T) {
	template := someTemplate()
	image := make(memory, template.GoldenBytes)
	template.Slots[0].Inode.setLength(image[4096:], 1<<40)
	if _, err := ReadContent(template, 0, image); err == nil || !strings.Contains(err.Error(), "1099511627776") {
		t.Error(err)
	}
	if _, err := ReadContent(template, 3, image); err == nil {
		t.Error("slot 3 exists")
	}
}

func TestExtentsLayDeviceOverConstant(t *testing.T) {
	constant := []Extent{{10, []byte("aaaaaaaaaa")}, {30, []byte("bbbbb")}, {50, []byte("c")}}
	for name, test := range map[string]struct {
		slots []Extent
		want  string
	}{
		"none":             {nil, "..........aaaaaaaaaa..........bbbbb...............c........."},
		"inside":           {[]Extent{{12, []byte("XX")}, {15, []byte("Y")}}, "..........aaXXaYaaaa..........bbbbb...............c........."},
		"at both ends":     {[]Extent{{10, []byte("X")}, {19, []byte("Y")}}, "..........XaaaaaaaaY..........bbbbb...............c........."},
		"whole":            {[]Extent{{30, []byte("XXXXX")}}, "..........aaaaaaaaaa..........XXXXX...............c........."},
		"between":          {[]Extent{{22, []byte("XX")}, {55, []byte("Y")}}, "..........aaaaaaaaaa..XX......bbbbb...............c....Y...."},
		"over the edge":    {[]Extent{{18, []byte("XXXX")}}, "..........aaaaaaaaXXXX........bbbbb...............c........."},
		"before the start": {[]Extent{{28, []byte("XXXX")}}, "..........aaaaaaaaaa........XXXXbbb...............c........."},
	} {
		t.Run(name, func(t *testing.T) {
			image, end := bytes.Repeat([]byte("."), 60), int64(0)
			o := &Overlay{Template: &Template{Constant: constant}, Slots: test.slots}
			for _, e := range o.Extents() {
				if e.Offset < end {
					t.Errorf("overlap at %d", e.Offset)
				}
				end = e.Offset + int64(copy(image[e.Offset:], e.Data))
			}
			if string(image) != test.want {
				t.Errorf("got  %s\nwant %s", image, test.want)
			}
		})
	}
}

func TestTemplateCode(t *testing.T) {
	template := someTemplate()
	rand.Read(template.Golden[:])
	b, err := template.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalTemplate(b)
	if err != nil || !reflect.DeepEqual(got, template) {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range b {
		if _, err := UnmarshalTemplate(b[:i]); err == nil {
			t.Errorf("accepted after %d bytes", i)
		}
	}
	if _, err := UnmarshalTemplate(append(b, 0)); err == nil {
		t.Error("accepted with a byte too many")
	}
}

func TestImpossibleTemplates(t *testing.T) {
	for name, spoil := range map[string]func(t *Template){
		"extents overlap":        func(t *Template) { t.Constant[1].Offset = 511 },
		"extent outside":         func(t *Template) { t.Constant[2].Offset = 1<<20 - 1 },
		"empty extent":           func(t *Template) { t.Constant[2].Data = nil },
		"span outside":           func(t *Template) { t.Slots[0].Content[0].Offset = 1 << 20 },
		"span negative":          func(t *Template) { t.Slots[0].Content[0] = Span{-5, 10} },
		"span empty":             func(t *Template) { t.Slots[0].Content[0].Length = 0 },
		"slots overlap":          func(t *Template) { t.Slots[2].Content[0].Offset = 5120 },
		"shortest too long":      func(t *Template) { t.Slots[0].Shortest = 4096 },
		"fixed length too long":  func(t *Template) { t.Slots[2].Bytes = 101 },
		"inode outside":          func(t *Template) { t.Slots[0].Inode.Offset = 1<<20 - 100 },
		"inode of another kind":  func(t *Template) { t.Slots[0].Inode.Kind = 9 },
		"inode size":             func(t *Template) { t.Slots[0].Inode.Size = 64 },
		"inode image":            func(t *Template) { t.Slots[0].Inode.Image = nil },
		"inline content outside": func(t *Template) { t.Slots[1].Content[1].Offset = 4700 },
		"inline content twice":   func(t *Template) { t.Slots[1].Content[1].Offset = 4400 },
		"negative length":        func(t *Template) { t.GoldenBytes = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			template := someTemplate()
			spoil(template)
			b, err := template.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := UnmarshalTemplate(b); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// FuzzTemplate requires that whatever is accepted can be filled and read back.
func FuzzTemplate(f *testing.F) {
	b, err := someTemplate().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		template, err := UnmarshalTemplate(b)
		if err != nil || template.GoldenBytes > 1<<24 {
			return
		}
		contents := make([][]byte, len(template.Slots))
		for i := range contents {
			_, most := template.Slots[i].lengths()
			contents[i] = make([]byte, most)
			rand.Read(contents[i])
		}
		o, err := template.Fill(contents)
		if err != nil {
			t.Fatal(err)
		}
		image := make(memory, template.GoldenBytes)
		for _, e := range o.Extents() {
			if e.Offset < 0 || e.Offset+int64(len(e.Data)) > template.GoldenBytes {
				t.Fatalf("extent at %d lies outside", e.Offset)
			}
			copy(image[e.Offset:], e.Data)
		}
		for i, want := range contents {
			if got, err := ReadContent(template, i, image); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("slot %d does not read back: %v", i, err)
			}
		}
	})
}

func BenchmarkFill(b *testing.B) {
	g := sample(b, SampleOptions{})
	p := planTest(b, g, Target{Path: agentPath})
	for name, length := range pemBytes {
		b.Run(name, func(b *testing.B) {
			contents := [][]byte{make([]byte, length)}
			if _, err := p.Overlay(b.Context(), contents); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Overlay(b.Context(), contents); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPlan is the time until the first device's overlay, with a data
// partition of 128 MiB.
func BenchmarkPlan(b *testing.B) {
	g := sample(b, SampleOptions{Bytes: 512 << 20})
	for b.Loop() {
		p := planTest(b, g, Target{Path: agentPath})
		if _, err := p.Overlay(b.Context(), [][]byte{make([]byte, 119)}); err != nil {
			b.Fatal(err)
		}
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
