package imaging

import (
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkPackAppend stages Ed25519-sized keys from 256 goroutines; the goal
// is 50,000 a second.
func BenchmarkPackAppend(b *testing.B) {
	p, _, _ := newPack(b)
	sum, size := p.Golden()
	tmpl := &Template{
		Golden: sum, GoldenBytes: size,
		Constant: []Extent{{Offset: 4096, Data: make([]byte, 1024)}},
		Slots:    []Slot{{Path: "/data/key", Content: []Span{{4096, 1024}}, Bytes: 119}},
	}
	content := [][]byte{handKey(1)[:119]}
	var next atomic.Int64
	var length atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range 256 {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				o, err := tmpl.Fill(content)
				if err != nil {
					b.Error(err)
					return
				}
				ref, err := p.Append(b.Context(), [32]byte{byte(n)}, o)
				if err != nil {
					b.Error(err)
					return
				}
				length.Store(ref.Length)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
	b.ReportMetric(float64(length.Load()), "disk-B/device")
}
