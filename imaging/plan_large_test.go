package imaging

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestSparse16GiB plans for an image as large as an eMMC: neither memory nor
// disk may grow with the holes.
func TestSparse16GiB(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes 16 GiB of holes")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	g := sample(t, SampleOptions{Bytes: 16 << 30})
	work := t.TempDir()
	p, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: work})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	key := []byte("a private key")
	o, err := p.Overlay(t.Context(), [][]byte{key})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadContent(o.Template, 0, patched{g, o}); err != nil || !bytes.Equal(got, key) {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	used := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d MiB of memory allocated in all", used>>20)
	if used > 128<<20 {
		t.Errorf("%d MiB of memory", used>>20)
	}
	if used := allocated(t, work); used > 256<<20 {
		t.Errorf("%d MiB of disk for the plan", used>>20)
	}
}

// allocated sums what files below dir take on disk.
func allocated(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += stat.Blocks * 512
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestKernelMount lets the kernel mount a produced image.
func TestKernelMount(t *testing.T) {
	need(t, "mount", "mount", "umount")
	if os.Getuid() != 0 {
		missing(t, "only root can mount")
	}
	for _, mkfs := range []string{"-t ext4", "-t ext4 -b 4096 -O inline_data", "-t ext2 -b 1024"} {
		t.Run(mkfs, func(t *testing.T) {
			g := sample(t, SampleOptions{Mkfs: append([]string{"mke2fs", "-q", "-F", "-L", "data"}, strings.Fields(mkfs)...)})
			p := planTest(t, g, Target{Path: agentPath}, Target{Path: "/data/factory/serial", Mode: 0o4640, UID: 1000, GID: 70000})
			key, serial := bytes.Repeat([]byte("private key "), 10), []byte("4711\n")
			o, err := p.Overlay(t.Context(), [][]byte{key, serial})
			if err != nil {
				t.Fatal(err)
			}
			dir := mountData(t, g, produce(t, g, o))
			if got, err := os.ReadFile(filepath.Join(dir, "mender/mender-agent.pem")); err != nil || !bytes.Equal(got, key) {
				t.Errorf("%q, %v", got, err)
			}
			info, err := os.Stat(filepath.Join(dir, "factory/serial"))
			if err != nil {
				t.Fatal(err)
			}
			stat, ok := info.Sys().(*syscall.Stat_t)
			if !ok || stat.Mode != 0o104640 || stat.Uid != 1000 || stat.Gid != 70000 || !info.ModTime().Equal(planTime) {
				t.Errorf("%+v", stat)
			}
		})
	}
}

// mountData mounts the data partition of an image, read-only.
func mountData(t *testing.T, g *Golden, image string) string {
	t.Helper()
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	part, dir := filepath.Join(t.TempDir(), "part"), t.TempDir()
	if err := copyPart(t.Context(), image, part, data.Offset, data.Bytes); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "ro,loop", part, dir).CombinedOutput(); err != nil {
		missing(t, "this machine does not mount images: %s", out)
	}
	t.Cleanup(func() { tool(t, "umount", dir) })
	return dir
}

// A full disk must be told from a damaged image: the caller looks for ENOSPC.
func TestNoRoomForThePlan(t *testing.T) {
	need(t, "mount", "mount", "umount")
	g, dir := sampleWith(t), t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).CombinedOutput(); err != nil {
		missing(t, "this machine does not mount: %s", out)
	}
	t.Cleanup(func() { tool(t, "umount", dir) })
	_, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: dir})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v is not ENOSPC", err)
	}
	empty(t, dir)
}

func TestMissingToolNamesItsPackage(t *testing.T) {
	tools := tools{planTime}
	_, _, err := tools.run(t.Context(), "some-package", "", "no-such-tool")
	if hint, ok := errors.AsType[*Error](err); !ok || !strings.Contains(hint.Hint(), "apt-get install some-package") {
		t.Errorf("%v has no hint", err)
	}
}
