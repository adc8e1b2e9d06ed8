package reports

import (
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// peakHeap watches the heap while f runs and returns its peak in bytes.
func peakHeap(f func()) uint64 {
	stop, done := make(chan struct{}), make(chan uint64)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		var peak uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			select {
			case <-stop:
				done <- peak
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	return max(<-done, before.HeapAlloc) - before.HeapAlloc
}

const benchDevices = 100_000

// bench keeps a lot of 100,000 devices, made once for all benchmarks.
var bench struct {
	once   sync.Once
	ledger *fakeLedger
}

func benchLedger(b *testing.B) *fakeLedger {
	bench.once.Do(func() {
		bench.ledger = newLedger(b)
		bench.ledger.fill("lot-1", benchDevices)
	})
	return bench.ledger
}

// BenchmarkExport writes the whole signed bundle of 100,000 devices, all
// formats. The heap is what the export adds to the ledger in memory.
func BenchmarkExport(b *testing.B) {
	l := benchLedger(b)
	var peak uint64
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "report")
		peak = max(peak, peakHeap(func() {
			if _, err := Export(b.Context(), l, "lot-1", dir, Options{Signer: stationKey("a"), Station: "line-3"}); err != nil {
				b.Fatal(err)
			}
		}))
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(benchDevices)*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
	b.ReportMetric(float64(peak)/1e6, "MB-peak-heap")
}

// BenchmarkVerify verifies the bundle of 100,000 devices.
func BenchmarkVerify(b *testing.B) {
	l := benchLedger(b)
	dir := filepath.Join(b.TempDir(), "report")
	if _, err := Export(b.Context(), l, "lot-1", dir, Options{Signer: stationKey("a"), Station: "line-3"}); err != nil {
		b.Fatal(err)
	}
	var peak uint64
	for b.Loop() {
		peak = max(peak, peakHeap(func() { wantValid(b, verify(b, dir, trusted(stationKey("a")))) }))
	}
	b.ReportMetric(float64(benchDevices)*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
	b.ReportMetric(float64(peak)/1e6, "MB-peak-heap")
}

// distinctPrimes returns n primes above 2^40 by a sieve.
func distinctPrimes(n int) []int64 {
	const base = 1 << 40
	window := make([]bool, 30*n) // one number in 28 is prime there
	small := make([]bool, 1<<20+1000)
	for p := 2; p < len(small); p++ {
		if small[p] {
			continue
		}
		for m := 2 * p; m < len(small); m += p {
			small[m] = true
		}
		for m := (p - base%p) % p; m < len(window); m += p {
			window[m] = true
		}
	}
	var primes []int64
	for i, composite := range window {
		if !composite && len(primes) < n {
			primes = append(primes, int64(base+i))
		}
	}
	return primes
}

// BenchmarkBatchGCD looks for shared primes among 10,000 moduli of 2048 bits,
// two of which share one. Real primes of 1024 bits would take minutes to make;
// the arithmetic only sees sizes, so each modulus is a product of 50 primes of
// 41 bits that no other has.
func BenchmarkBatchGCD(b *testing.B) {
	const keys, factors = 10_000, 50
	primes := distinctPrimes(keys * factors)
	moduli := make([]*big.Int, keys)
	for i := range moduli {
		moduli[i] = big.NewInt(1)
		for _, p := range primes[i*factors : (i+1)*factors] {
			moduli[i].Mul(moduli[i], big.NewInt(p))
		}
	}
	moduli[9_999].Quo(moduli[9_999], big.NewInt(primes[9_999*factors]))
	moduli[9_999].Mul(moduli[9_999], big.NewInt(primes[17*factors]))
	var peak uint64
	for b.Loop() {
		peak = max(peak, peakHeap(func() {
			hits, err := batchGCD(b.Context(), moduli)
			if err != nil || !slices.Equal(hits, []int{17, 9_999}) {
				b.Fatalf("%v, %v", hits, err)
			}
		}))
	}
	b.ReportMetric(float64(keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
	b.ReportMetric(float64(peak)/1e6, "MB-peak-heap")
}
