package sandbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a sandbox behind TLS on loopback, with a client for it.
type server struct {
	*Sandbox
	url    string
	client *http.Client
	token  string
}

// start serves a sandbox until the test ends.
func start(t testing.TB, cfg Config) *server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CACert())
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool},
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &server{
		Sandbox: s, url: "https://" + ln.Addr().String(),
		client: &http.Client{Transport: transport}, token: s.Token(),
	}
}

// overVersions runs a test against each service that the sandbox plays.
func overVersions(t *testing.T, test func(t *testing.T, v Version)) {
	t.Helper()
	for _, v := range []Version{Main, Mender41} {
		t.Run(string(v), func(t *testing.T) { test(t, v) })
	}
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body string
}

// want checks the status.
func (r reply) want(t testing.TB, status int) reply {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("answered %d, want %d: %s", r.StatusCode, status, r.body)
	}
	return r
}

// json decodes the body.
func (r reply) json(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("the body %q: %v", r.body, err)
	}
}

const devauth = "/api/management/v2/devauth"

// do calls the management API with the token; path begins after devauth's.
func (s *server) do(t testing.TB, method, path, body string, edit ...func(*http.Request)) reply {
	t.Helper()
	r, err := s.try(t.Context(), method, devauth+path, body, edit...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// try is do for a full path and for calls that may fail.
func (s *server) try(ctx context.Context, method, path, body string, edit ...func(*http.Request)) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, e := range edit {
		e(req)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return reply{resp, string(data)}, err
}

// preauth is a body for POST /devices.
func preauth(identity string, publicPEM []byte, force bool) string {
	body, err := json.Marshal(map[string]any{
		"identity_data": json.RawMessage(identity), "pubkey": string(publicPEM), "force": force,
	})
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// device finds the device with an identity.
func (s *server) device(t testing.TB, identity string) Device {
	t.Helper()
	d, ok := s.Find([]byte(identity))
	if !ok {
		t.Fatalf("no device has the identity %s", identity)
	}
	return d
}

// String shows the device and its auth sets in one line.
func (d Device) String() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s", d.Identity, d.Status)
	if d.Decommissioning {
		b.WriteString(" (decommissioning)")
	}
	for _, a := range d.AuthSets {
		fmt.Fprintf(&b, " [%s]", a.Status)
	}
	return b.String()
}

// processTime is the CPU time that this process has used.
func processTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
