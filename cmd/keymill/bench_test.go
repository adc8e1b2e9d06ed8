package main

import (
	"testing"

	"keymill/pipeline/mender/sandbox"
)

// BenchmarkLot is the main job as people meet it: 10,000 Ed25519 devices from
// the manifest to a pack and a report, the trial server in the same process on
// the same cores. It reports devices/s of the whole command.
func BenchmarkLot(b *testing.B) {
	const devices = 10_000
	for b.Loop() {
		b.StopTimer()
		f := newFactory(b, devices, sandbox.Config{})
		b.StartTimer()
		if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
			b.Fatalf("exit %d: %s", code, errs)
		}
	}
	b.ReportMetric(devices*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}
