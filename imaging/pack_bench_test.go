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

// BenchmarkPackDestroy destroys entries from 256 goroutines, as a run does
// whose product are images.
func BenchmarkPackDestroy(b *testing.B) {
	p, tmpl, _ := newPack(b)
	refs := make([]Ref, b.N)
	each := func(do func(n int)) {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 256 {
			wg.Go(func() {
				for n := next.Add(1) - 1; n < int64(b.N); n = next.Add(1) - 1 {
					do(int(n))
				}
			})
		}
		wg.Wait()
	}
	each(func(n int) { refs[n] = mustAppend(b, p, tmpl, n) })
	b.ResetTimer()
	each(func(n int) {
		if err := p.Destroy(refs[n]); err != nil {
			b.Error(err)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}

// BenchmarkPackOpen opens a pack of 100,000 entries.
func BenchmarkPackOpen(b *testing.B) {
	p, tmpl, path := newPack(b)
	var wg sync.WaitGroup
	for worker := range 100 {
		wg.Go(func() {
			for n := range 1000 {
				mustAppend(b, p, tmpl, worker*1000+n)
			}
		})
	}
	wg.Wait()
	p.Close()
	b.ReportAllocs()
	for b.Loop() {
		p, err := OpenPack(path)
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
