package imaging

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// oldMedium is a medium that was used before: a loop device or a file, full of
// 0xFF.
func oldMedium(t testing.TB, kind string, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "medium")
	if err := os.WriteFile(file, bytes.Repeat([]byte{0xff}, int(size)), 0o600); err != nil {
		t.Fatal(err)
	}
	if kind == MediumFile {
		return file
	}
	return loopDevice(t, file)
}

func openTestMedium(t testing.TB, path string) *Medium {
	t.Helper()
	m, err := OpenMedium(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

var testMarker = [16]byte{0xab, 1, 2, 3}

func TestMediumHoldsTheImage(t *testing.T) {
	for _, kind := range []string{MediumDisk, MediumFile} {
		for _, size := range []int64{16 << 20, 9<<20 + 512, 4<<20 + 100, 300 << 10} {
			t.Run(fmt.Sprint(kind, size), func(t *testing.T) {
				if kind == MediumDisk && size < 1<<20 {
					size += 212 // an odd end, in the head
				}
				g := newGolden(t, t.TempDir(), size, Span{0, 8192}, Span{size / 2 / 4096 * 4096, size / 4 / 4096 * 4096})
				o := handOverlay(t, handTemplate(g.sum, size), 1)
				path := oldMedium(t, kind, size/512*512+8192)
				m := openTestMedium(t, path)
				phases := map[string]int64{}
				result, err := m.Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker, Progress: func(p MediumProgress) {
					if p.Done <= phases[p.Phase] || p.Done > p.Total {
						t.Errorf("progress %+v after %d", p, phases[p.Phase])
					}
					phases[p.Phase] = p.Done
				}})
				if err != nil {
					t.Fatal(err)
				}
				if result.Written != size || result.Skipped != 0 || phases["key"] == 0 || phases["write"] != phases["compare"] {
					t.Errorf("%+v, %v", result, phases)
				}
				m.Close()
				if !bytes.Equal(readDevice(t, path, size), wantImage(t, g, o)) {
					t.Error("the medium holds something else")
				}
				after := readDevice(t, path, size+8192)
				if kind == MediumFile {
					if int64(len(after)) != size {
						t.Errorf("a file of %d bytes", len(after))
					}
				} else if tail := after[(size+511)/512*512:]; bytes.Count(tail, []byte{0xff}) != len(tail) {
					t.Error("wrote behind the image's end")
				}
			})
		}
	}
}

// What golden's own block map leaves out is left alone, but not what the template
// changes there.
func TestMediumSkipsWhatTheBlockMapSays(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	g.matter = []Span{{1 << 20, 1 << 20}}
	o := handOverlay(t, tmpl, 1)
	want := wantImage(t, g, o)
	path := oldMedium(t, MediumDisk, 4<<20)
	m := openTestMedium(t, path)
	result, err := m.Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker})
	if err != nil {
		t.Fatal(err)
	}
	if result.Written != 2<<20 || result.Skipped != 2<<20 {
		t.Errorf("%+v", result)
	}
	got := readDevice(t, path, 4<<20)
	if !bytes.Equal(got[:2<<20], want[:2<<20]) || bytes.Count(got[2<<20:], []byte{0xff}) != 2<<20 {
		t.Error("another image")
	}
}

// midTemplate is one whose slots lie behind the first MiB.
func midTemplate(g *handGolden) *Template {
	return &Template{
		Golden: g.sum, GoldenBytes: g.size,
		Constant: []Extent{{2 << 20, bytes.Repeat([]byte{0xc0}, 3000)}},
		Slots:    []Slot{{Path: "/data/key", Content: []Span{{2<<20 + 1024, 1024}, {3<<20 - 1024, 1176}}, Bytes: 2200}},
	}
}

// wantUseless checks that a medium holds no byte of a key and cannot boot.
func wantUseless(t testing.TB, path string, g Image, when string) {
	t.Helper()
	data := readDevice(t, path, g.Size())
	if bytes.Contains(data, []byte("PRIVATE-")) {
		t.Errorf("%s: the key is on the medium", when)
	}
	head := make([]byte, 512)
	if err := readFull(g, head, 0); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(head, data[:512]) {
		t.Errorf("%s: the medium can boot", when)
	}
}

// Before the key, the medium holds everything else, a marker, and nothing to boot.
func TestMediumOrder(t *testing.T) {
	g, _ := smallGolden(t, t.TempDir())
	o := handOverlay(t, midTemplate(g), 1)
	for _, kind := range []string{MediumDisk, MediumFile} {
		path := oldMedium(t, kind, 4<<20)
		m := openTestMedium(t, path)
		_, err := m.Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker, BeforeKey: func(context.Context) error {
			wantUseless(t, path, g, "before the key")
			marker, found, err := markerOf(path)
			if err != nil || !found || marker != testMarker {
				t.Errorf("marker %x, %v, %v", marker, found, err)
			}
			got, want := readDevice(t, path, 4<<20), wantImage(t, g, &Overlay{Template: o.Template})
			if !bytes.Equal(got[1<<20:], want[1<<20:]) {
				t.Error("the rest isn't there yet")
			}
			return errors.New("the ledger is gone")
		}})
		failed := (*MediumError)(nil)
		if !errors.As(err, &failed) || failed.Code != "refused" || failed.KeyLeft || failed.Hint() == "" {
			t.Fatalf("%v", err)
		}
		wantUseless(t, path, g, "refused")
		c, err := m.Contents(t.Context(), g, o)
		if err != nil || c.Kind != MediumUnit || c.Marker != testMarker || c.Spare() {
			t.Errorf("%+v, %v", c, err)
		}
		// It goes on with the same medium.
		if _, err := m.Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker, Resumed: true}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readDevice(t, path, 4<<20), wantImage(t, g, o)) {
			t.Error("another image")
		}
		if c, err := m.Contents(t.Context(), g, o); err != nil || c.Kind != MediumImage {
			t.Errorf("%+v, %v", c, err)
		}
		if err := m.Wipe(o.Template); err != nil {
			t.Fatal(err)
		}
		wantUseless(t, path, g, "wiped")
		if c, err := m.Contents(t.Context(), g, o); err != nil || c.Kind != MediumBlank || !c.Spare() {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// Called off at any moment, no byte of the key stays, or the medium is whole.
func TestMediumCalledOff(t *testing.T) {
	g := newGolden(t, t.TempDir(), 40<<20, Span{0, 8192}, Span{1 << 20, 30 << 20})
	o := handOverlay(t, midTemplate(g), 1)
	path := oldMedium(t, MediumDisk, 40<<20)
	m := openTestMedium(t, path)
	for at := 1; ; at++ {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		call := func() {
			if n++; n == at {
				cancel()
			}
		}
		_, err := m.Write(ctx, g, o, WriteMediumOptions{Marker: testMarker,
			Progress:  func(MediumProgress) { call() },
			BeforeKey: func(context.Context) error { call(); return nil }})
		cancel()
		if err == nil {
			if at < 15 {
				t.Errorf("it was told only %d times", at)
			}
			return
		}
		failed := (*MediumError)(nil)
		if !errors.As(err, &failed) || failed.Code != "interrupted" || failed.KeyLeft || !errors.Is(err, context.Canceled) {
			t.Fatalf("moment %d: %v", at, err)
		}
		wantUseless(t, path, g, fmt.Sprintf("moment %d", at))
	}
}

// killedMedium makes this program write a medium, until it is killed.
const killedMedium = "KEYMILL_TEST_MEDIUM"

// Killed at any moment, the medium is whole, or it can't boot and bears the unit's
// marker.
func TestMediumKilled(t *testing.T) {
	dir := t.TempDir()
	g := newGolden(t, dir, 24<<20, Span{0, 8192}, Span{1 << 20, 20 << 20})
	o := handOverlay(t, midTemplate(g), 1)
	if path := os.Getenv(killedMedium); path != "" {
		m := openTestMedium(t, path)
		tell := func(what string) { fmt.Println("MOMENT", what) }
		_, err := m.Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker,
			Progress:  func(p MediumProgress) { tell(p.Phase) },
			BeforeKey: func(context.Context) error { tell("before the key"); return nil }})
		tell(fmt.Sprint("end ", err))
		return
	}
	path := oldMedium(t, MediumDisk, 24<<20)
	want := wantImage(t, g, o)
	whole, marked := 0, 0
	for moment := range 40 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMediumKilled$", "-test.v") //nolint:gosec // this test's own program
		cmd.Env = append(os.Environ(), killedMedium+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "MOMENT") {
				if n++; n > moment {
					break
				}
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		got := readDevice(t, path, 24<<20)
		_, found, err := markerOf(path)
		switch {
		case err != nil:
			t.Fatal(err)
		case bytes.Equal(got, want):
			whole++
		case found:
			marked++
			if bytes.Equal(got[:512], want[:512]) {
				t.Errorf("moment %d: it can boot", moment)
			}
		default:
			t.Errorf("moment %d: it is neither whole nor marked", moment)
		}
	}
	if whole == 0 || marked == 0 {
		t.Errorf("%d times whole, %d times marked", whole, marked)
	}
}

// Golden that has rotted since it was hashed reaches no medium with a key.
func TestMediumOfRottenGolden(t *testing.T) {
	g, _ := smallGolden(t, t.TempDir())
	o := handOverlay(t, midTemplate(g), 1)
	g.sum[0]++
	o.Template.Golden = g.sum
	path := oldMedium(t, MediumDisk, 4<<20)
	_, err := openTestMedium(t, path).Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker})
	failed := (*MediumError)(nil)
	if !errors.As(err, &failed) || failed.Code != "golden" || failed.KeyLeft {
		t.Fatal(err)
	}
	wantUseless(t, path, g, "rotten")
}

func TestMediumContents(t *testing.T) {
	g := sample(t, SampleOptions{Bytes: 32 << 20})
	four := mustRead(t, g.Path())
	other := sample(t, SampleOptions{Bytes: 32 << 20, Table: "gpt"})
	fat := disk(t, 8<<20, "label: dos\nstart=2048, type=c")
	bare := filepath.Join(t.TempDir(), "bare")
	mustRun(t, "truncate", "-s", "16M", bare)
	mustRun(t, program(t, "mkfs.vfat", "dosfstools"), bare)
	ext := filepath.Join(t.TempDir(), "ext")
	mustRun(t, "truncate", "-s", "16M", ext)
	mustRun(t, program(t, "mke2fs", "e2fsprogs"), "-q", ext)
	for name, c := range map[string]struct {
		data []byte
		kind string
	}{
		"zeros":            {make([]byte, 1<<20), MediumBlank},
		"used":             {bytes.Repeat([]byte{0xff}, 1<<20), MediumBlank},
		"nothing":          {nil, MediumBlank},
		"one FAT":          {mustRead(t, fat), MediumFAT},
		"FAT, no table":    {mustRead(t, bare), MediumFAT},
		"ext4, no table":   {mustRead(t, ext), MediumForeign},
		"golden":           {four, MediumGolden},
		"other partitions": {mustRead(t, other.Path()), MediumForeign},
		"cut GPT":          {mustRead(t, other.Path())[:8<<20], MediumForeign},
		"a unit's":         {append(marshalMarker(testMarker, g.SHA256(), 512), make([]byte, 1<<20)...), MediumUnit},
		"a torn marker":    {append(marshalMarker(testMarker, g.SHA256(), 512)[:30], make([]byte, 1<<20)...), MediumBlank},
	} {
		path := filepath.Join(t.TempDir(), "medium")
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := openTestMedium(t, path).Contents(t.Context(), g, nil)
		if err != nil || got.Kind != c.kind || got.Detail == "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestMediumIdentity(t *testing.T) {
	sys := t.TempDir()
	write := func(name, content string) {
		name = filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(from, to string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(sys, from)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(sys, from)); err != nil {
			t.Fatal(err)
		}
	}
	const usb = "devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2/1-1.2:1.0/host6/target6:0:0/6:0:0:0/block/sdb"
	write(usb+"/../../vendor", "Generic \n")
	write(usb+"/../../model", "STORAGE DEVICE  \n")
	write(usb+"/size", "1\n")
	link(usb+"/device", "../..")
	link("dev/block/8:16", "../../"+usb)
	const mmc = "devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0"
	write(mmc+"/../../cid", "1b534d454231515430a0b8a5c1013b00\n")
	write(mmc+"/../../name", "EB1QT\n")
	write(mmc+"/size", "1\n")
	link(mmc+"/device", "../..")
	link("dev/block/179:0", "../../"+mmc)
	id, err := identifyNumber("8:16", sys)
	if err != nil || id.Port != "1-1.2" || id.Model != "Generic STORAGE DEVICE" || id.CID != "" {
		t.Errorf("%+v, %v", id, err)
	}
	id.Bytes = 31914983424
	if got := id.String(); got != "usb 1-1.2, Generic STORAGE DEVICE, 31914983424 bytes" {
		t.Error(got)
	}
	id, err = identifyNumber("179:0", sys)
	if err != nil || id.Port != "" || id.Model != "EB1QT" || id.CID != "1b534d454231515430a0b8a5c1013b00" {
		t.Errorf("%+v, %v", id, err)
	}
	loop := oldMedium(t, MediumDisk, 1<<20)
	if id := openTestMedium(t, loop).Identity(); id.Kind != MediumDisk || id.Bytes != 1<<20 || id.Path != loop {
		t.Errorf("%+v", id)
	}
}

func TestMediumRefuses(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 1)
	wantRefusal := func(device, part string) {
		t.Helper()
		m, err := OpenMedium(device)
		if err == nil {
			defer m.Close()
			_, err = m.Write(t.Context(), g, o, WriteMediumOptions{Marker: testMarker})
		}
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, not one with %q", device, err, part)
			return
		}
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) || hint.Hint() == "" {
			t.Errorf("%v: no advice", err)
		}
	}
	wantRefusal("/dev/null", "neither a block device nor a file")
	wantRefusal("/dev/no-such-disk", "does not exist")
	wantRefusal(oldMedium(t, MediumDisk, 2<<20), "only 2097152")
	file := oldMedium(t, MediumFile, 1<<20)
	openTestMedium(t, file)
	wantRefusal(file, "another process writes to it")
	mounted := xfsDisk(t)
	source := mountSource(t, mounted)
	wantRefusal(source, "is mounted at "+mounted)
	held, err := os.OpenFile(oldMedium(t, MediumDisk, 4<<20), os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	wantRefusal(held.Name(), "in use")
}

// mountSource returns the device that is mounted at a place.
func mountSource(t *testing.T, dir string) string {
	for line := range strings.Lines(string(mustRead(t, "/proc/self/mounts"))) {
		if f := strings.Fields(line); f[1] == dir {
			return f[0]
		}
	}
	t.Fatalf("nothing is mounted at %s", dir)
	return ""
}

func TestMountPoint(t *testing.T) {
	const info = `24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
80 24 7:1 / /mnt/a rw - xfs /dev/loop1 rw
`
	for number, want := range map[string]string{"254:0": "/", "7:1": "/mnt/a", "7:11": "", "1:7": ""} {
		if got := mountPoint(info, number); got != want {
			t.Errorf("%s: %q", number, got)
		}
	}
}

// markerOf returns the marker of the unit for which a medium was being written
// when that was interrupted. It disturbs nobody who has the medium open.
func markerOf(path string) (marker [16]byte, found bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return marker, false, err
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, mediumBlock, unix.FADV_DONTNEED) // advice only
	return readMarker(f)
}
