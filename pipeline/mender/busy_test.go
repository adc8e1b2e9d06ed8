package mender

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// bare preauthorizes n devices with so many workers and no more than net/http,
// and returns the rate: what the same bodies cost without a client.
func bare(b *testing.B, cfg Config, token string, workers, n int, series string) float64 {
	b.Helper()
	transport, err := newTransport(cfg.CAFile, workers)
	if err != nil {
		b.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	spki, _ := newKey(b)
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				id := pipeline.Identity{{Name: "serial", Value: series + strconv.Itoa(i)}}
				req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, cfg.URL+apiPath+"/devices",
					bytes.NewReader(appendPreauth(nil, id, spki, "", false)))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+token)
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.Body.Close(); resp.StatusCode != http.StatusCreated {
					b.Errorf("answered %d", resp.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(began).Seconds()
}

// BenchmarkBusyServer compares the client with the best of a sweep of bare POSTs,
// against a server that burns CPU time on the same cores, in three alternating
// runs each; the result is the median. Run it with -benchtime 1x.
// KEYMILL_BENCH_DEVICES makes a run another size than 600 devices.
func BenchmarkBusyServer(b *testing.B) {
	n := 600
	if v, err := strconv.Atoi(os.Getenv("KEYMILL_BENCH_DEVICES")); err == nil {
		n = v
	}
	for _, cost := range []time.Duration{2 * time.Millisecond, 5 * time.Millisecond} {
		for _, lines := range []int{1, 2, 16} {
			b.Run(fmt.Sprintf("cost %s, %d workers", cost, lines), func(b *testing.B) {
				s, cfg := trial(b, sandbox.Config{Faults: sandbox.Faults{Cost: cost, Capacity: lines}})
				spki, _ := newKey(b)
				rates := map[int][]float64{} // by workers; 0 is the client
				for run := range 3 * b.N {
					for _, workers := range []int{1, 4, 16, 32, 64} {
						rates[workers] = append(rates[workers], bare(b, cfg, s.Token(), workers, n, fmt.Sprint("b", run, "-", workers, "-")))
					}
					c := open(b, cfg)
					began := time.Now()
					drive(b, c, spki, 128, n, fmt.Sprint("c", run, "-"))
					rates[0] = append(rates[0], float64(n)/time.Since(began).Seconds())
					b.Logf("run %d: limit %d", run, c.Stats().Limit)
				}
				best := 0.0
				for _, workers := range []int{1, 4, 16, 32, 64} {
					slices.Sort(rates[workers])
					median := rates[workers][len(rates[workers])/2]
					b.Logf("bare, %2d in flight: %4.0f/s", workers, median)
					best = max(best, median)
				}
				slices.Sort(rates[0])
				median := rates[0][len(rates[0])/2]
				b.ReportMetric(median, "devices/s")
				b.ReportMetric(100*median/best, "%ofbest")
			})
		}
	}
}
