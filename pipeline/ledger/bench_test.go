package ledger

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keymill/pipeline"
)

// cpuTime returns the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// benchLedger returns a ledger with one lot of n devices.
func benchLedger(b *testing.B, at string, n int) *Ledger {
	b.Helper()
	l := openAt(b, at)
	err := l.Plan(b.Context(), pipeline.Lot{Name: "lot"}, station("line-1", pipeline.ActionPlan), devices(0, n))
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// walk takes a device through the three commits of its life.
func walk(b *testing.B, l *Ledger, i int) {
	rec := &pipeline.Record{Lot: "lot", Device: device(i), State: pipeline.Planned, Station: "line-1", Attempts: 1}
	commit := func(to pipeline.State, action string) {
		from := rec.State
		rec.State = to
		event := pipeline.Event{
			Station: "line-1", Lot: "lot", Run: 2, Action: action, Row: rec.Row, Device: rec.Identity, From: from, To: to, Attempt: 1,
			Algorithm: rec.Algorithm, SPKI: rec.Fingerprint(), Auth: rec.Auth, Key: "in-pack", Output: rec.Output,
		}
		if err := l.Commit(b.Context(), pipeline.Change{From: from, Record: rec, Event: event}); err != nil {
			b.Error(err)
		}
	}
	rec.PublicKey, rec.Algorithm, rec.KeysGenerated = make([]byte, 44), "ed25519", 1
	rec.Pack = pipeline.PackRef{Offset: int64(i) * 8192, Length: 8192}
	commit(pipeline.Staged, pipeline.ActionStage)
	rec.Auth = pipeline.AuthSet{Status: "preauthorized", DeviceID: "0d0c6f4e-52fb-4c1e-9f5e-1f4f8e6a0001",
		RequestID: "7b1f3f3c-9a53-4f6e-8d8e-0a4f6c2b0001", HTTPStatus: 201, Attempts: 1}
	commit(pipeline.Preauthorized, pipeline.ActionPreauthorize)
	rec.Output = pipeline.Output{Name: rec.Identity.Name() + ".img", Bytes: 1 << 28, SHA256: pipeline.Fingerprint(rec.PublicKey)}
	commit(pipeline.Released, pipeline.ActionRelease)
}

// BenchmarkCommit measures one commit where 256 workers carry devices through
// three commits each, as the line does.
func BenchmarkCommit(b *testing.B) {
	benchCommit(b, filepath.Join(b.TempDir(), "keymill.db"))
}

// BenchmarkCommitPostgres measures the same on PostgreSQL over a local socket;
// processor time is that of this process only.
func BenchmarkCommitPostgres(b *testing.B) {
	benchCommit(b, startPostgres(b, "").schema())
}

func benchCommit(b *testing.B, at string) {
	n := b.N/3 + 1
	l := benchLedger(b, at, n)
	var next atomic.Int64
	var workers sync.WaitGroup
	used, began := cpuTime(b), time.Now()
	b.ResetTimer()
	for range 256 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				walk(b, l, i)
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	commits := float64(3 * n)
	b.ReportMetric(commits/time.Since(began).Seconds(), "commits/s")
	b.ReportMetric(float64((cpuTime(b)-used).Nanoseconds())/1000/commits, "cpu-µs/commit")
}

// BenchmarkPlan measures planning a lot of 100,000 devices.
func BenchmarkPlan(b *testing.B) {
	const n = 100_000
	l := openAt(b, filepath.Join(b.TempDir(), "keymill.db"))
	used := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		lot := pipeline.Lot{Name: fmt.Sprint("lot-", i)}
		if err := l.Plan(b.Context(), lot, station("line-1", pipeline.ActionPlan), devices(i*n, (i+1)*n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "devices/s")
	b.ReportMetric(float64((cpuTime(b)-used).Nanoseconds())/1000/float64(n*b.N), "cpu-µs/device")
}

// BenchmarkTotals measures the totals of a lot of 100,000 devices.
func BenchmarkTotals(b *testing.B) {
	const n = 100_000
	l := benchLedger(b, filepath.Join(b.TempDir(), "keymill.db"), n)
	for b.Loop() {
		if _, err := l.Totals(b.Context(), "lot"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "devices/s")
}

// BenchmarkRecords measures reading all records of a lot of 100,000 devices.
func BenchmarkRecords(b *testing.B) {
	const n = 100_000
	l := benchLedger(b, filepath.Join(b.TempDir(), "keymill.db"), n)
	for b.Loop() {
		for _, err := range l.Records(b.Context(), "lot") {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "devices/s")
}
