package imaging

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loopDisk makes a loop device of size bytes that holds old data.
func loopDisk(t *testing.T, size int64) string {
	file := filepath.Join(t.TempDir(), "medium")
	if err := os.WriteFile(file, bytes.Repeat([]byte("old."), int(size/4)), 0o600); err != nil {
		t.Fatal(err)
	}
	return loopDevice(t, file)
}

func TestFlashWritesAndCompares(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 1)
	want := wantImage(t, g, o)
	loop := loopDisk(t, 6<<20)
	var steps []string
	last := map[bool]int64{}
	result, err := Flash(t.Context(), loop, g, o, FlashOptions{Progress: func(verify bool, done, total int64) {
		if done <= last[verify] || done > total {
			t.Errorf("progress %d of %d after %d", done, total, last[verify])
		}
		last[verify] = done
		if done == total {
			steps = append(steps, map[bool]string{false: "written", true: "compared"}[verify])
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(steps, " ") != "written compared" || result.Written != last[true] {
		t.Fatalf("%v, %+v", steps, result)
	}
	if result.Written > 2<<20 || result.Written+result.Skipped != g.size {
		t.Fatalf("%+v of golden's %d bytes", result, g.size)
	}
	got := readDevice(t, loop, 6<<20)
	for _, s := range []Span{{0, 16 << 10}, {1 << 20, 1 << 20}, {3<<20 + 4096, 4096}} {
		if !bytes.Equal(got[s.Offset:s.Offset+s.Length], want[s.Offset:s.Offset+s.Length]) {
			t.Errorf("another image at %v", s)
		}
	}
	if !bytes.HasPrefix(got[512<<10:], []byte("old.")) || !bytes.HasPrefix(got[4<<20:], []byte("old.")) {
		t.Error("wrote where golden has holes, or behind its end")
	}
	if _, err := Flash(t.Context(), loop, g, o, FlashOptions{Zero: true}); err != nil {
		t.Fatal(err)
	}
	if got := readDevice(t, loop, g.size); !bytes.Equal(got, want) {
		t.Error("with zeros, the device doesn't hold the image")
	}
}

// An interrupted device must not look like a whole one.
func TestFlashInterrupted(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	loop := loopDisk(t, 4<<20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Flash(ctx, loop, g, handOverlay(t, tmpl, 1), FlashOptions{Progress: func(bool, int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(readDevice(t, loop, 4096), []byte("old.")) {
		t.Fatal("the beginning was written first")
	}
}

func TestFlashRefuses(t *testing.T) {
	g, tmpl := smallGolden(t, t.TempDir())
	o := handOverlay(t, tmpl, 1)
	wantRefusal := func(device, part string) {
		t.Helper()
		_, err := Flash(t.Context(), device, g, o, FlashOptions{})
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, not one with %q", device, err, part)
			return
		}
		if hint := (&Error{}); !errors.As(err, &hint) || hint.Remedy == "" {
			t.Errorf("%v: no advice", err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(file, "no block device")
	wantRefusal("/dev/null", "no block device")
	if _, err := Flash(t.Context(), "/dev/no-such-disk", g, o, FlashOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	wantRefusal(loopDisk(t, 2<<20), "only 2097152")
	mounted := xfsDisk(t)
	source := mountSource(t, mounted)
	wantRefusal(source, "is mounted at "+mounted)
	held, err := os.OpenFile(loopDisk(t, 4<<20), os.O_RDWR|os.O_EXCL, 0)
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
