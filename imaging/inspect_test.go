package imaging

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	g := sampleWith(t, "symlink link mender/device_type")
	p := planTest(t, g, Target{Path: agentPath, UID: 7})
	key := bytes.Repeat([]byte("k"), 1500)
	o, err := p.Overlay(t.Context(), [][]byte{key})
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(produce(t, g, o))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Inspect(bytes.NewReader(image), g.Size(), GoldenOptions{}, agentPath, "/data/link", "/data/mender", "/data/nothing/here", "partition:2:/lost+found")
	if err != nil {
		t.Fatal(err)
	}
	if got.Data != 4 || len(got.Volumes) != 4 || got.Volumes[3].State != "clean" || got.Volumes[3].Free <= 0 {
		t.Errorf("%+v", got)
	}
	want := []FileInfo{
		{Path: agentPath, Exists: true, Kind: "file", Mode: "0600", UID: 7, Bytes: 1500, Blocks: got.Files[0].Blocks},
		{Path: "/data/link", Exists: true, Kind: "symlink", Mode: "0777", Bytes: 18, Link: "mender/device_type"},
		{Path: "/data/mender", Exists: true, Kind: "directory", Mode: "0755", Bytes: got.Files[2].Bytes},
		{Path: "/data/nothing/here"},
		{Path: "partition:2:/lost+found", Exists: true, Kind: "directory", Mode: "0700", Bytes: got.Files[4].Bytes},
	}
	a, _ := json.Marshal(got.Files)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	var content []byte
	for _, s := range got.Files[0].Blocks {
		content = append(content, image[s.Offset:s.Offset+s.Length]...)
	}
	if !bytes.Equal(content, key) {
		t.Error("the content lies elsewhere")
	}
	for _, path := range []string{"partition:9:/x", "/etc/x"} {
		if _, err := Inspect(bytes.NewReader(image), g.Size(), GoldenOptions{}, path); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestInspectFAT(t *testing.T) {
	need(t, "mtools", "mcopy")
	need(t, "dosfstools", "mkfs.vfat", "fsck.vfat")
	g := sampleWith(t)
	content := bytes.Repeat([]byte("boot"), 1000)
	p := planTest(t, g, Target{Path: "partition:1:/EFI/config.txt"})
	o, err := p.Overlay(t.Context(), [][]byte{content})
	if err != nil {
		t.Fatal(err)
	}
	view := patched{g, o}
	got, err := Inspect(view, g.Size(), GoldenOptions{}, "partition:1:/efi/CONFIG.TXT", "partition:1:/EFI", "partition:1:/none")
	if err != nil {
		t.Fatal(err)
	}
	file := got.Files[0]
	if file.Kind != "file" || file.Bytes != 4000 || got.Files[1].Kind != "directory" || got.Files[2].Exists {
		t.Errorf("%+v", got.Files)
	}
	var read []byte
	for _, s := range file.Blocks {
		b := make([]byte, s.Length)
		if _, err := view.ReadAt(b, s.Offset); err != nil {
			t.Fatal(err)
		}
		read = append(read, b...)
	}
	if !bytes.Equal(read, content) {
		t.Error("the content lies elsewhere")
	}
}

func TestInspectWithoutDataPartition(t *testing.T) {
	name := disk(t, 32<<20, "label: gpt\nsize=1MiB\nsize=2MiB, name=boot\n")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Inspect(bytes.NewReader(b), int64(len(b)), GoldenOptions{})
	if err != nil || got.Data != 0 || got.DataReason == "" || got.Volumes[0].Injection == "ok" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Inspect(bytes.NewReader(b), int64(len(b)), GoldenOptions{Partition: "data"}); err == nil {
		t.Error("the partition exists")
	}
}

// Written over a master image, the serialization table makes each device's
// image: what gang programmers do.
func TestSerializationTable(t *testing.T) {
	g := sampleWith(t)
	p := planTest(t, g, Target{Path: agentPath}, Target{Path: "/data/serial", Mode: 0o644})
	first, err := p.Overlay(t.Context(), [][]byte{bytes.Repeat([]byte("long"), 200), []byte("1\n")})
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.Overlay(t.Context(), [][]byte{[]byte("short"), []byte("22\n")})
	if err != nil {
		t.Fatal(err)
	}
	master, err := os.ReadFile(produce(t, g, first))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(produce(t, g, second))
	if err != nil {
		t.Fatal(err)
	}
	d := p.Describe()[0]
	if len(d.Fields) != 6 || len(d.Files) != 2 || d.ConstantBytes <= 0 || d.DeviceBytes <= 0 || d.GoldenBytes != g.Size() {
		t.Errorf("%+v", d)
	}
	for i, value := range second.Values() {
		if int64(len(value)) != d.Fields[i].Length {
			t.Errorf("field %d has %d bytes, not %d", i, len(value), d.Fields[i].Length)
		}
		copy(master[d.Fields[i].Offset:], value)
	}
	if !bytes.Equal(master, want) {
		t.Error("the serialization table makes another image")
	}
	text, err := json.Marshal(d)
	if err != nil || !strings.Contains(string(text), `"holds":"inode"`) {
		t.Errorf("%s, %v", text, err)
	}
}
