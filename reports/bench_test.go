package reports

import (
	"context"
	"iter"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"keymill/pipeline"
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

// streamLedger is a lot of 100,000 devices that is never in memory as a whole,
// as in a real ledger: it replays a small one over and over.
type streamLedger struct {
	*fakeLedger
	devices int
	start   time.Time
}

func newStreamLedger(b *testing.B) *streamLedger {
	l := newLedger(b)
	l.fill("lot-1", 1)
	lot := l.lots["lot-1"]
	lot.Devices = benchDevices
	plan := &l.logs["line-3/lot-1"][0]
	plan.Canonical = []byte(setFact(setFact(string(plan.Canonical), "devices", itoa(benchDevices)), "roster_sha256", roster(benchDevices)))
	plan.Leaf = pipeline.LeafHash(plan.Canonical)
	l.lots["lot-1"] = lot
	return &streamLedger{l, benchDevices, l.clock}
}

// each yields one device at a time with its events, numbered throughout.
func (s *streamLedger) each(yield func(r *pipeline.Record, events []pipeline.StoredEvent) bool) {
	const origin = "line-3/lot-1"
	one := newLedger(s.t)
	one.lots, one.clock = s.lots, s.start
	last := s.logs[origin][1:2]
	for i := range s.devices {
		one.records["lot-1"], one.from = nil, last[0].Seq
		one.logs[origin] = nil
		one.carry("lot-1", 2, i)
		events := one.logs[origin]
		if !yield(one.records["lot-1"][0], events) {
			return
		}
		last = events[len(events)-1:]
	}
}

func (s *streamLedger) Records(_ context.Context, _ string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		s.each(func(r *pipeline.Record, _ []pipeline.StoredEvent) bool {
			return len(states) > 0 && !slices.Contains(states, r.State) || yield(r, nil)
		})
	}
}

func (s *streamLedger) LogEvents(ctx context.Context, log Log, after int64) iter.Seq2[pipeline.StoredEvent, error] {
	if log.Kind == pipeline.LogStation {
		return s.fakeLedger.LogEvents(ctx, log, after)
	}
	return func(yield func(pipeline.StoredEvent, error) bool) {
		for _, e := range s.logs[log.Origin][:2] {
			if !yield(e, nil) {
				return
			}
		}
		s.each(func(_ *pipeline.Record, events []pipeline.StoredEvent) bool {
			for _, e := range events {
				if !yield(e, nil) {
					return false
				}
			}
			return true
		})
	}
}

func (s *streamLedger) Logs(ctx context.Context, lot string) ([]Log, error) {
	logs, err := s.fakeLedger.Logs(ctx, lot)
	for i := range logs {
		if logs[i].Kind == pipeline.LogLot {
			logs[i].Size = 1 << 40 // as many as there are
		}
	}
	return logs, err
}

func (s *streamLedger) Totals(ctx context.Context, lot string) (pipeline.Totals, error) {
	sum := pipeline.Totals{Lot: lot}
	for r, err := range s.Records(ctx, lot) {
		if err != nil {
			return sum, err
		}
		sum.Devices++
		*sum.Count(r.State)++
		sum.Keys.Generated += r.KeysGenerated
		sum.Keys.Destroyed += r.KeysDestroyed
		if r.State == pipeline.Released {
			sum.Keys.Released++
		}
	}
	return sum, nil
}

// BenchmarkExport writes the whole signed bundle of 100,000 devices, all
// formats. Making up the devices, five times, is part of the time.
func BenchmarkExport(b *testing.B) {
	l := newStreamLedger(b)
	var peak uint64
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "report")
		peak = max(peak, peakHeap(func() {
			if _, err := Export(b.Context(), l, "lot-1", dir, Options{Signer: stationKey("a"), Station: "line-3", Journal: l}); err != nil {
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

// BenchmarkExportXLSX writes the workbook alone, whose memory must not grow with
// the lot.
func BenchmarkExportXLSX(b *testing.B) {
	l := newStreamLedger(b)
	var peak uint64
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "report")
		peak = max(peak, peakHeap(func() {
			if _, err := Export(b.Context(), l, "lot-1", dir, Options{Formats: []string{"xlsx"}}); err != nil {
				b.Fatal(err)
			}
		}))
	}
	b.ReportMetric(float64(benchDevices)*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
	b.ReportMetric(float64(peak)/1e6, "MB-peak-heap")
}

// BenchmarkVerify verifies the bundle of 100,000 devices.
func BenchmarkVerify(b *testing.B) {
	l := newStreamLedger(b)
	dir := filepath.Join(b.TempDir(), "report")
	if _, err := Export(b.Context(), l, "lot-1", dir, Options{Signer: stationKey("a"), Station: "line-3", Journal: l}); err != nil {
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
