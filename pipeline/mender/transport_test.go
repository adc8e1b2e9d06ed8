package mender

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// writeCA puts the test server's certificate into a file.
func writeCA(t testing.TB, srv *httptest.Server) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

// Connections are kept as many as requests are in flight, whatever fails:
// go-retryablehttp would close them all after each failure.
func TestConnectionsAreKept(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		var opened, served atomic.Int64
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			switch n := served.Add(1); {
			case n%7 == 0:
				http.Error(w, `{"error":"internal"}`, http.StatusInternalServerError)
			case n%11 == 0:
				http.Error(w, `{"error":"bad"}`, http.StatusBadRequest)
			default:
				w.WriteHeader(http.StatusCreated)
			}
			if want := map[bool]int{false: 1, true: 2}[h2]; r.ProtoMajor != want {
				t.Errorf("HTTP/%d, want %d", r.ProtoMajor, want)
			}
		}))
		srv.EnableHTTP2 = h2
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		}
		srv.StartTLS()
		c := open(t, Config{URL: srv.URL, CAFile: writeCA(t, srv), Token: TokenValue("x")})
		done := make(chan error, 64)
		for worker := range 64 {
			go func() {
				for i := range 30 {
					_, err := c.Preauthorize(t.Context(), preauth(t, worker<<8|i))
					done <- err
				}
			}()
		}
		failed := 0
		for range 64 * 30 {
			if err := <-done; err != nil {
				failed++
			}
		}
		if n := opened.Load(); n > 2*DefaultInFlight || failed < 50 {
			t.Errorf("HTTP/2 %v: %d connections for %d requests, %d of them refused", h2, n, served.Load(), failed)
		}
		c.Close()
		srv.Close()
	}
}

// proxyChild tells the test binary that it is the other half of TestProxy:
// net/http reads the environment once a process.
const proxyChild = "KEYMILL_TEST_PROXY_CHILD"

// The proxy comes from the environment, and sees the tunnel only.
func TestProxy(t *testing.T) {
	if url := os.Getenv(proxyChild); url != "" {
		c := open(t, Config{URL: url, CAFile: os.Getenv(proxyChild + "_CA"), Token: TokenValue("x")})
		if _, err := c.Preauthorize(t.Context(), preauth(t, 1)); err != nil {
			t.Fatal(err)
		}
		return
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }))
	defer srv.Close()
	var tunnels atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" || r.Header.Get("Authorization") != "" {
			t.Errorf("the proxy got %s %s", r.Method, r.Host)
		}
		tunnels.Add(1)
		tunnel(t, w, srv.Listener.Addr().String())
	}))
	defer proxy.Close()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxy$", "-test.count=1")
	child.Env = append(os.Environ(), proxyChild+"=https://example.com", proxyChild+"_CA="+writeCA(t, srv),
		"HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
	if tunnels.Load() != 1 {
		t.Errorf("%d tunnels", tunnels.Load())
	}
}

// tunnel joins a CONNECT request with an address.
func tunnel(t *testing.T, w http.ResponseWriter, addr string) {
	server, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	fmt.Fprint(client, "HTTP/1.1 200 OK\r\n\r\n")
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].Close()
		})
	}
	wg.Wait()
}
