package mender

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"encoding/pem"
)

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
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, Config{URL: srv.URL, CAFile: ca, Token: TokenValue("x")})
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
