package mender

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keymill/pipeline"
)

// trivialServer answers every POST with 201 over TLS, as cheaply as net/http can.
func trivialServer(b *testing.B, handler http.HandlerFunc, h2 bool) Config {
	b.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.EnableHTTP2 = h2
	srv.StartTLS()
	b.Cleanup(srv.Close)
	return Config{URL: srv.URL, CAFile: writeCA(b, srv), Token: TokenValue(testToken)}
}

func created(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header()["Location"] = []string{"devices/9d8c7b6a-1"}
	w.WriteHeader(http.StatusCreated)
}

// cpuTime returns the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPreauthorize measures the client and a trivial server in one process
// over loopback TLS; cpu-us/op is the processor time of both.
func BenchmarkPreauthorize(b *testing.B) {
	for _, h2 := range []bool{false, true} {
		name := "http1"
		if h2 {
			name = "http2"
		}
		b.Run(name, func(b *testing.B) {
			c, err := New(trivialServer(b, created, h2))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			spki, _ := newKey(b)
			used := cpuTime(b)
			b.ReportAllocs()
			drive(b, c, spki, 64, b.N, "b")
			b.ReportMetric(float64(cpuTime(b)-used)/float64(b.N)/1e3, "cpu-us/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
		})
	}
}

// drive preauthorizes n new devices with so many workers.
func drive(b *testing.B, c *Client, spki []byte, workers, n int, series string) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				id := pipeline.Identity{{Name: "serial", Value: series + strconv.Itoa(i)}}
				if _, err := c.Preauthorize(context.Background(), pipeline.Preauth{Identity: id, SPKI: spki}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
