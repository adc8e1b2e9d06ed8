package sandbox

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWriteFiles(t *testing.T) {
	srv := start(t, Config{})
	dir := filepath.Join(t.TempDir(), "trial")
	for range 2 {
		if err := srv.WriteFiles(dir); err != nil {
			t.Fatal(err)
		}
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file has mode %v, %v", info.Mode(), err)
	}
	if info, err = os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || !bytes.Equal(ca, srv.CACert()) {
		t.Errorf("ca.crt: %v", err)
	}
	srv.token = strings.TrimSpace(string(token))
	srv.do(t, "GET", "/devices/count", "").want(t, 200)
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("the folder holds %v", left)
	}
}

// TestNames: the certificate is good for localhost, both loopback addresses and
// the names that it was asked for.
func TestNames(t *testing.T) {
	srv := start(t, Config{Names: []string{"trial.example", "192.0.2.1"}})
	cert, err := x509.ParseCertificate(srv.authority.server.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"trial.example": true, "192.0.2.1": true, "192.0.2.2": false} {
		if err := cert.VerifyHostname(name); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(srv.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	srv.url = "https://localhost:" + port
	srv.do(t, "GET", "/devices/count", "").want(t, 200)
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 loopback")
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, ln) }()
	srv.url = "https://" + ln.Addr().String()
	srv.do(t, "GET", "/devices/count", "").want(t, 200)
	srv.client.CloseIdleConnections()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestServeDrains: a call in flight when Serve ends is still answered.
func TestServeDrains(t *testing.T) {
	s, err := New(Config{Faults: Faults{Latency: 200 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	srv := start(t, Config{}) // only for its client
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	transport := srv.client.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(s.CACert())
	defer transport.CloseIdleConnections()
	srv.client, srv.url, srv.token = &http.Client{Transport: transport}, "https://"+ln.Addr().String(), s.Token()
	answered := make(chan error, 1)
	go func() {
		r, err := srv.try(t.Context(), "GET", devauth+"/devices/count", "")
		if err == nil && r.StatusCode != http.StatusOK {
			err = fmt.Errorf("answered %d", r.StatusCode)
		}
		answered <- err
	}()
	eventually(t, func() bool { return s.Stats().InFlight == 1 })
	cancel()
	if err := <-answered; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeListenerFails(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := s.Serve(t.Context(), ln); err == nil {
		t.Error("Serve on a closed listener returned nil")
	}
}

// TestHTTP2 runs the calls and a cut over HTTP/2, which clients may negotiate.
func TestHTTP2(t *testing.T) {
	srv := start(t, Config{})
	srv.client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	_, public := newKey(t, "ed25519")
	r := srv.do(t, "POST", "/devices", preauth(`{"mac":"aa"}`, public, false)).want(t, 201)
	if r.ProtoMajor != 2 {
		t.Errorf("answered over %s", r.Proto)
	}
	srv.SetFaults(Faults{Reset: 1})
	if _, err := srv.try(t.Context(), "POST", devauth+"/devices", preauth(`{"mac":"aa"}`, public, false)); err == nil {
		t.Error("a cut connection gave an answer")
	}
}

// TestManyAtOnce has clients racing for the same identities: each gets exactly
// one 201, whatever else happens around.
func TestManyAtOnce(t *testing.T) {
	srv := start(t, Config{Dir: t.TempDir()})
	const identities, racers = 100, 6
	_, public := newKey(t, "ed25519")
	var mu sync.Mutex
	created := map[int]int{}
	var all sync.WaitGroup
	for range racers {
		all.Go(func() {
			for n := range identities {
				r, err := srv.try(t.Context(), "POST", devauth+"/devices", preauth(fmt.Sprintf(`{"n":"%d"}`, n), public, false))
				if err != nil {
					t.Error(err)
					return
				}
				if r.StatusCode == http.StatusCreated {
					mu.Lock()
					created[n]++
					mu.Unlock()
				}
			}
		})
	}
	all.Go(func() {
		for range 20 {
			for d := range srv.Devices() {
				if len(d.AuthSets) != 1 {
					t.Errorf("a half-made device is seen: %s", d)
				}
			}
			srv.SetFaults(Faults{})
			srv.do(t, "GET", "/devices?per_page=500", "").want(t, 200)
			_ = srv.Stats()
		}
	})
	all.Wait()
	for n := range identities {
		if created[n] != 1 {
			t.Errorf("identity %d was created %d times", n, created[n])
		}
	}
	st := srv.Stats()
	if st.Requests[OpPreauthorize] != identities*racers || st.Answers[201] != identities || st.Answers[409] != identities*(racers-1) {
		t.Errorf("the statistics are %+v", st)
	}
	if st.Requested() != identities*racers+20 {
		t.Errorf("%d calls in all", st.Requested())
	}
}

// TestNothingSecretInTheLog: the log at its most talkative holds neither tokens
// nor keys.
func TestNothingSecretInTheLog(t *testing.T) {
	var log lockedBuffer
	srv := start(t, Config{User: "u", Password: "pass-phrase", Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 8}))})
	private, public := newKey(t, "ed25519")
	srv.do(t, "POST", "/devices", preauth(`{"mac":"aa"}`, public, false)).want(t, 201)
	token := srv.boot(t, private, public, `{"mac":"aa"}`).want(t, 200).body
	srv.do(t, "GET", "/devices/"+srv.device(t, `{"mac":"aa"}`).ID, "").want(t, 200)
	text := log.String()
	if !strings.Contains(text, "call=preauthorize status=201") {
		t.Errorf("the log lacks the call:\n%s", text)
	}
	for _, secret := range []string{srv.token, token, "pass-phrase", "KEY", "BEGIN"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %.12q", secret)
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
