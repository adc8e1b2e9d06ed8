package sandbox

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// ed25519PEM is the n-th of a row of public keys; the sandbox never asks whether
// a key is a point on the curve.
func ed25519PEM(t testing.TB, n uint64) []byte {
	key := make(ed25519.PublicKey, ed25519.PublicKeySize)
	for i := range 8 {
		key[i] = byte(n >> (8 * i))
	}
	return publicPEM(t, key)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPreauthorize measures preauthorizations over loopback TLS with
// keep-alive, client and server in this one process: req/s, and the CPU time of
// both sides together.
func BenchmarkPreauthorize(b *testing.B) {
	for _, journal := range []bool{false, true} {
		b.Run(map[bool]string{false: "memory", true: "journal"}[journal], func(b *testing.B) {
			cfg := Config{}
			if journal {
				cfg.Dir = b.TempDir()
			}
			srv := start(b, cfg)
			var n atomic.Uint64
			public := string(ed25519PEM(b, 1))
			b.ReportAllocs()
			b.SetParallelism(8)
			cpu := cpuTime()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					id := fmt.Sprintf(`{"mac":"%012x"}`, n.Add(1))
					r, err := srv.try(b.Context(), http.MethodPost, devauth+"/devices", preauth(id, []byte(public), false))
					if err != nil || r.StatusCode != http.StatusCreated {
						b.Errorf("%v %d", err, r.StatusCode)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/req")
		})
	}
}

// BenchmarkHandler measures the server's work alone, without TLS and HTTP.
func BenchmarkHandler(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	public := ed25519PEM(b, 1)
	token := "Bearer " + s.Token()
	b.ReportAllocs()
	var w discard
	for n := 0; b.Loop(); n++ {
		body := preauth(fmt.Sprintf(`{"mac":"%012x"}`, n), public, false)
		r, _ := http.NewRequestWithContext(b.Context(), http.MethodPost, devauth+"/devices", strings.NewReader(body))
		r.Header["Authorization"] = []string{token}
		r.Header["Content-Type"] = []string{"application/json"}
		w.header = http.Header{}
		s.Handler().ServeHTTP(&w, r)
		if w.status != http.StatusCreated {
			b.Fatal(w.status)
		}
	}
}

// discard is a ResponseWriter that keeps the status only.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(p []byte) (int, error) { return io.Discard.Write(p) }

// BenchmarkMillion registers a million devices and reports what one costs in
// memory, how long the list's last page of 500 and a search on the page for
// people take, and how long a restart takes.
func BenchmarkMillion(b *testing.B) {
	const devices = 1_000_000
	cfg := Config{Dir: b.TempDir()}
	for b.Loop() {
		before := heap()
		s, err := New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if s.store.countAll()["preauthorized"] == 0 {
			register(b, s.store, devices)
		}
		b.ReportMetric(float64(heap()-before)/devices, "B/device")
		b.ReportMetric(seconds(func() {
			if _, more := s.store.page(filter{}, devices-500, 500); more {
				b.Error("a page after the last one")
			}
		})*1e3, "ms/page")
		b.ReportMetric(seconds(func() {
			if _, n := s.store.look(newLookup("s00999999", ""), 0, pageSize); n != 1 {
				b.Errorf("%d devices found", n)
			}
		})*1e3, "ms/search")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(seconds(func() {
			if s, err = New(cfg); err != nil {
				b.Fatal(err)
			}
		}), "s/restart")
		if n := s.store.countAll()["preauthorized"]; n != devices {
			b.Fatalf("%d devices after a restart", n)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func register(b *testing.B, st *store, devices uint64) {
	b.Helper()
	for n := range devices {
		spki := append(append([]byte{}, ed25519Prefix...), make([]byte, 32)...)
		id := identity(fmt.Sprintf(`{"mac":"02:00:%012x","serial":"S%08d"}`, n, n))
		if _, _, err := st.preauthorize(id, setKey{spki: string(spki)}, false, false); err != nil {
			b.Fatal(err)
		}
	}
}

func seconds(do func()) float64 {
	began := time.Now()
	do()
	return time.Since(began).Seconds()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
