package imaging

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// benchFormat publishes devices' files from 64 goroutines, each durable; the
// goal is 2,000/s for formats that hold only what differs.
func benchFormat(b *testing.B, name string) {
	dir := b.TempDir()
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
	for range 64 {
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

func BenchmarkQcow2(b *testing.B) { benchFormat(b, "qcow2") }
func BenchmarkBmap(b *testing.B)  { benchFormat(b, "bmap") }
func BenchmarkSimg(b *testing.B)  { benchFormat(b, "simg") }
