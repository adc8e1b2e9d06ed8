package imaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deltaWriters is how many small files a run writes at once, so that they share
// the disk's syncs.
const deltaWriters = 256

// benchFormat publishes devices' files from as many goroutines as a run does, each durable; the
// goal is 2,000/s for formats that hold only what differs.
func benchFormat(b *testing.B, name, dir string) {
	g, tmpl := bigGolden(b, dir)
	format := mustFormat(b, name)
	w, err := format.Open(b.Context(), g, dir)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	first := filepath.Join(dir, format.FileName("first", g.Path()))
	if _, err := w.Write(b.Context(), handOverlay(b, tmpl, 0), first); err != nil { // golden reaches the disk, too
		b.Fatal(err)
	}
	disk, err := AllocatedBytes(first)
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range deltaWriters {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				dst := filepath.Join(dir, format.FileName(fmt.Sprint(n), g.Path()))
				if _, err := w.Write(b.Context(), handOverlay(b, tmpl, int(n)), dst); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
	b.ReportMetric(float64(disk), "disk-B/device")
}

func BenchmarkQcow2(b *testing.B) { benchFormat(b, "qcow2", b.TempDir()) }
func BenchmarkBmap(b *testing.B)  { benchFormat(b, "bmap", b.TempDir()) }
func BenchmarkSimg(b *testing.B)  { benchFormat(b, "simg", b.TempDir()) }

// The compressed formats copy golden's compressed form for each device, or
// share its blocks.
func BenchmarkCompressed(b *testing.B) {
	for _, name := range []string{"gz", "zst"} {
		b.Run(name, func(b *testing.B) { benchFormat(b, name, b.TempDir()) })
		b.Run(name+"-reflink", func(b *testing.B) { benchFormat(b, name, xfsDisk(b)) })
	}
}

// BenchmarkMenderArtifact is the peer: Debian's mender-artifact puts one key
// into a copy of an image of 2 GiB, 512 bytes a call. We put one into the same.
func BenchmarkMenderArtifact(b *testing.B) {
	tool := program(b, "mender-artifact", "mender-artifact")
	need(b, "e2fsprogs", "mke2fs", "debugfs")
	dir := b.TempDir()
	golden := filepath.Join(dir, "golden.sdimg")
	if err := Sample(b.Context(), golden, SampleOptions{Bytes: 2 << 30}); err != nil {
		b.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, handKey(1)[:119], 0o600); err != nil {
		b.Fatal(err)
	}
	image := filepath.Join(dir, "device.sdimg")
	b.ResetTimer()
	for range b.N {
		out, err := exec.CommandContext(b.Context(), "cp", "--sparse=always", golden, image).CombinedOutput()
		if err == nil {
			out, err = exec.CommandContext(b.Context(), tool, "install", "-m", "0600", key, image+":"+agentPath).CombinedOutput()
		}
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	theirs := b.Elapsed().Seconds() / float64(b.N)
	ours := rawSeconds(b, golden, filepath.Join(dir, "ours.sdimg"))
	b.ReportMetric(theirs, "s/device")
	b.ReportMetric(ours, "keymill-s/device")
	b.ReportMetric(theirs/ours, "times-faster")
}

// rawSeconds is what one raw image of the same golden costs us, template apart.
func rawSeconds(b *testing.B, golden, dst string) float64 {
	b.Helper()
	g, err := OpenGolden(b.Context(), golden, GoldenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	plan, err := NewPlan(b.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: time.Unix(1_800_000_000, 0)})
	if err != nil {
		b.Fatal(err)
	}
	defer plan.Close()
	content := [][]byte{handKey(1)[:119]}
	if _, err := plan.Overlay(b.Context(), content); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	overlay, err := plan.Overlay(b.Context(), content)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := WriteRaw(b.Context(), g, overlay, dst); err != nil {
		b.Fatal(err)
	}
	return time.Since(began).Seconds()
}
