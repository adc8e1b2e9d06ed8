package imaging

import (
	"os/exec"
	"testing"
	"time"
)

// BenchmarkMedium writes a disk that is full of data, and compares the rate of
// writing with dd's in the same run; the goal is 0.95.
func BenchmarkMedium(b *testing.B) {
	const size = 1 << 30
	g := newGolden(b, b.TempDir(), size, Span{0, size})
	o := handOverlay(b, midTemplate(g), 1)
	path := oldMedium(b, MediumDisk, size)
	m := openTestMedium(b, path)
	for b.Loop() {
		started := time.Now()
		var written time.Duration
		if _, err := m.Write(b.Context(), g, o, WriteMediumOptions{Marker: testMarker, Progress: func(p MediumProgress) {
			if p.Phase == "write" && p.Done == p.Total {
				written = time.Since(started)
			}
		}}); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		dd := exec.Command(program(b, "dd", "coreutils"), "if="+g.Path(), "of="+path, "bs=4M", "oflag=direct", "conv=fsync,notrunc", "status=none")
		if out, err := dd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.ReportMetric(float64(time.Since(began))/float64(written), "of-dd")
		b.ReportMetric(size/1e6/written.Seconds(), "MB/s")
	}
}
