package imaging

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// disk makes an empty image and partitions it with sfdisk.
func disk(t testing.TB, size int64, script string) string {
	t.Helper()
	need(t, "fdisk", "sfdisk")
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	path, err := lookTool("sfdisk", "fdisk")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--no-reread", "--no-tell-kernel", "-q", name)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return name
}

func tableOf(t testing.TB, name string, sector int) (*Table, error) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return readTable(bytes.NewReader(b), int64(len(b)), sector)
}

// numbers is what of a partition a test compares.
func numbers(table *Table) (out [][3]int64) {
	for _, p := range table.Partitions {
		out = append(out, [3]int64{int64(p.Number), p.Offset >> 20, p.Bytes >> 20})
	}
	return out
}

func TestTablesOfSfdisk(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		kind   string
		want   [][3]int64 // number, MiB, MiB
	}{
		"mbr": {"label: dos\nlabel-id: 0x12345678\nsize=2MiB, type=c\nsize=3MiB\nsize=4MiB\nsize=5MiB\n", TableMBR,
			[][3]int64{{1, 1, 2}, {2, 3, 3}, {3, 6, 4}, {4, 10, 5}}},
		"extended": {"label: dos\nsize=2MiB\nsize=3MiB\n4: size=20MiB, type=5\n5: size=1MiB\n6: size=2MiB\n7: size=3MiB\n", TableMBR,
			[][3]int64{{1, 1, 2}, {2, 3, 3}, {5, 7, 1}, {6, 9, 2}, {7, 12, 3}}},
		"empty extended": {"label: dos\nsize=2MiB\nsize=20MiB, type=f\n", TableMBR, [][3]int64{{1, 1, 2}}},
		"gpt": {"label: gpt\nsize=2MiB, name=boot\nsize=3MiB, name=a\nsize=3MiB, name=b\nsize=4MiB, name=data\nsize=1MiB\nsize=1MiB\n", TableGPT,
			[][3]int64{{1, 1, 2}, {2, 3, 3}, {3, 6, 3}, {4, 9, 4}, {5, 13, 1}, {6, 14, 1}}},
		"gpt with gaps": {"label: gpt\n2: start=4MiB, size=2MiB\n9: start=2MiB, size=1MiB\n", TableGPT, [][3]int64{{2, 4, 2}, {9, 2, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := tableOf(t, disk(t, 32<<20, test.script), 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := numbers(table); table.Kind != test.kind || table.SectorSize != 512 || !slices.Equal(got, test.want) {
				t.Errorf("%s %v, want %s %v", table.Kind, got, test.kind, test.want)
			}
		})
	}
}

// lsblk and the kernel know partitions by what sfdisk prints as uuid.
func TestPARTUUIDs(t *testing.T) {
	for _, label := range []string{"dos", "gpt"} {
		name := disk(t, 16<<20, "label: "+label+"\nsize=2MiB\nsize=3MiB\n")
		table, err := tableOf(t, name, 0)
		if err != nil {
			t.Fatal(err)
		}
		dump := strings.ToLower(tool(t, "sfdisk", "-d", name))
		want := table.Partitions[1].PARTUUID
		if label == "dos" {
			want = "label-id: 0x" + strings.TrimSuffix(want, "-02")
		}
		if !strings.Contains(dump, want) {
			t.Errorf("%s: %s is not in\n%s", label, want, dump)
		}
	}
}

func TestLogicalPartitionsAgreeWithSfdisk(t *testing.T) {
	script := "label: dos\nsize=2MiB\n2: size=40MiB, type=5\n"
	for i := 5; i <= 14; i++ {
		script += strconv.Itoa(i) + ": size=1MiB\n"
	}
	name := disk(t, 64<<20, script)
	table, err := tableOf(t, name, 0)
	if err != nil {
		t.Fatal(err)
	}
	dump := tool(t, "sfdisk", "-J", name)
	for _, p := range table.Partitions {
		if want := "\"start\": " + strconv.FormatInt(p.Offset/512, 10) + ","; !strings.Contains(dump, want) {
			t.Errorf("partition %d: sfdisk knows no %s", p.Number, want)
		}
	}
	if last := table.Partitions[len(table.Partitions)-1].Number; last != 14 {
		t.Errorf("the last logical partition is %d", last)
	}
}

func TestSampleTablesPassTheirJudges(t *testing.T) {
	need(t, "gdisk", "sgdisk")
	need(t, "fdisk", "sfdisk")
	g := sample(t, SampleOptions{Table: TableGPT})
	if out := tool(t, "sgdisk", "-v", g.Path()); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	tool(t, "sfdisk", "--verify", sample(t, SampleOptions{}).Path())
}

func TestSectorsOf4096Bytes(t *testing.T) {
	for _, table := range []string{TableMBR, TableGPT} {
		for _, given := range []int{0, 4096} {
			g := sample(t, SampleOptions{Table: table, SectorSize: 4096})
			read, err := tableOf(t, g.Path(), given)
			if err != nil || read.SectorSize != 4096 || read.Partitions[3].FSLabel != "data" {
				t.Errorf("%s, %d: %+v, %v", table, given, read, err)
			}
		}
	}
	if _, err := tableOf(t, sample(t, SampleOptions{}).Path(), 520); err == nil {
		t.Error("sectors of 520 bytes accepted")
	}
}

func TestDamagedTables(t *testing.T) {
	gpt := disk(t, 16<<20, "label: gpt\nsize=2MiB\nsize=3MiB\n")
	mbr := disk(t, 16<<20, "label: dos\nsize=2MiB\n2: size=8MiB, type=5\n5: size=1MiB\n6: size=1MiB\n7: size=1MiB\n")
	const backup = 16<<20 - 512
	for name, test := range map[string]struct {
		image   string
		at      int64
		bytes   string
		message string
	}{
		"header flipped":             {gpt, 512 + 40, "\xff", "checksum of its header"},
		"entry flipped":              {gpt, 1024 + 41, "\xff", "checksum of its entries"},
		"primary wiped":              {gpt, 512, strings.Repeat("\x00", 512), "only the backup"},
		"both wiped":                 {gpt, 512, strings.Repeat("\x00", backup), "no GPT behind"},
		"protective MBR wiped":       {gpt, 446, strings.Repeat("\x00", 66), "protective MBR is missing"},
		"header length":              {gpt, 512 + 12, "\xff\xff", "impossible length"},
		"partition outside":          {mbr, 446 + 12, "\x00\x00\x00\x70", "does not lie within"},
		"partitions overlap":         {mbr, 446 + 12, "\x01\x30\x00\x00", "overlap"},
		"chain in a circle":          {mbr, 3<<20 + 446 + 16 + 8, "\x00\x00\x00\x00", "circle"},
		"chain leads nowhere":        {mbr, 3<<20 + 446 + 16 + 8, "\x05\x00\x00\x00", "broken"},
		"chain leads out":            {mbr, 3<<20 + 446 + 16 + 8, "\x00\x00\x00\x70", "broken"},
		"chain is no chain":          {mbr, 3<<20 + 446 + 16 + 4, "\x83", "broken"},
		"logical partition too long": {mbr, 3<<20 + 446 + 12, "\x00\x00\x00\x01", "reaches out"},
		"two extended partitions":    {mbr, 446 + 4, "\x0f", "two extended"},
		"nothing":                    {mbr, 0, strings.Repeat("\x00", 512), "no partition table"},
		"not a boot record":          {mbr, 446, "\x31", "no partition table"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(test.image)
			if err != nil {
				t.Fatal(err)
			}
			copy(b[test.at:], test.bytes)
			_, err = readTable(bytes.NewReader(b), int64(len(b)), 512)
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v, want ..%s..", err, test.message)
			}
			if hint, ok := errors.AsType[*Error](err); name != "two extended partitions" && (!ok || hint.Hint() == "") {
				t.Errorf("%v has no hint", err)
			}
		})
	}
}

func TestCutOffImage(t *testing.T) {
	name := disk(t, 16<<20, "label: dos\nsize=2MiB\nsize=3MiB\n")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readTable(bytes.NewReader(b), 4<<20, 0); err == nil || !strings.Contains(err.Error(), "partition 2") {
		t.Error(err)
	}
}

func TestOneFileSystemWithoutTable(t *testing.T) {
	need(t, e2fsprogs, "mke2fs")
	name := filepath.Join(t.TempDir(), "data.ext4")
	tool(t, "mke2fs", "-q", "-t", "ext4", name, "8M")
	g := openTest(t, name, GoldenOptions{})
	if g.Table().Kind != TableNone {
		t.Error(g.Table())
	}
	inject(t, g, agentPath, "/mender/mender-agent.pem", []byte("key"))
}

// FuzzTable requires that no bytes make the reader panic, loop, or accept a
// partition outside the image.
func FuzzTable(f *testing.F) {
	for _, table := range []string{TableMBR, TableGPT} {
		b := sectorsOf(f, table)
		f.Add(b, uint8(0))
	}
	f.Add(make([]byte, 512), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, sector uint8) {
		size := int64(len(b))
		table, err := readTable(&bounded{t, b}, size, []int{0, 512, 4096}[sector%3])
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Offset < 0 || p.Bytes <= 0 || p.Offset+p.Bytes > size {
				t.Errorf("partition %d lies outside", p.Number)
			}
		}
	})
}

// sectorsOf is a table on a disk of 40 KiB.
func sectorsOf(f *testing.F, kind string) []byte {
	f.Helper()
	name := filepath.Join(f.TempDir(), "disk")
	file, err := os.Create(name)
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(80 * 512); err != nil {
		f.Fatal(err)
	}
	write := writeMBR
	if kind == TableGPT {
		write = writeGPT
	}
	parts := []samplePart{{"a", 0x83, "0fc63daf-8483-4772-8e79-3d69d8477de4", 34 * 512, 4 * 512, nil}}
	if err := write(file, 80*512, 512, parts); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// bounded complains about reads outside the file.
type bounded struct {
	t *testing.T
	b []byte
}

func (r *bounded) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(r.b)) || int64(len(p)) > int64(len(r.b))-off {
		r.t.Errorf("read of %d bytes at %d of %d", len(p), off, len(r.b))
		return 0, os.ErrInvalid
	}
	return copy(p, r.b[off:]), nil
}
