package station_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/pipeline/mender/sandbox"
)

// boot sends a device's auth request, and returns how it was answered.
func boot(t *testing.T, f *trial.Trial, idData string, key ed25519.PrivateKey) int {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"id_data": idData, "pubkey": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(f.Path("sb", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.Server+"/api/devices/v1/authentication/auth_requests", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-MEN-Signature", base64.StdEncoding.EncodeToString(ed25519.Sign(key, body)))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A lot's first boots are followed by the webhook: those that come up, one that
// asks with another key, and one that reports another identity.
func TestWatch(t *testing.T) {
	ready := make(chan string, 1)
	var relay *httputil.ReverseProxy // to the watcher, whose address is not known before
	gate := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-gate
		relay.ServeHTTP(w, r)
	}))
	defer receiver.Close()
	f := trial.New(t, 1, sandbox.Config{Webhook: sandbox.Webhook{URL: receiver.URL, Secret: []byte("s3cret")}})
	const n = 4
	var texts []string
	var keys []ed25519.PrivateKey
	for range n {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		texts, keys = append(texts, base64.StdEncoding.EncodeToString(der)), append(keys, private)
	}
	writeKeyManifest(f, "keys.csv", texts)
	o := station.Options{Settings: f.Settings(map[string]any{"keys.source": "manifest", "image.golden": nil, "report.formats": "csv"})}
	if _, err := station.Run(t.Context(), o, f.Path("keys.csv"), "own"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path("secret"), []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := station.OpenPlanned(t.Context(), o, "own")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	told := make(chan station.Boot, 20)
	type result struct {
		station.Watched
		err error
	}
	ended := make(chan result, 1)
	go func() {
		found, err := l.Watch(t.Context(), station.WatchOptions{
			Every: time.Hour, Listen: "127.0.0.1:0", SecretFile: f.Path("secret"),
			Ready: func(address string) { ready <- address }, Told: func(b station.Boot) { told <- b },
		})
		ended <- result{found, err}
	}()
	relay = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: <-ready})
	close(gate)
	id := func(i int) string { return fmt.Sprintf(`{"mac":"02:00:00:00:00:%02x"}`, i) }
	expect := func(row int, what string) {
		t.Helper()
		select {
		case b := <-told:
			if b.Row != row || b.What != what || (b.Advice == "") != (what == "accepted") {
				t.Errorf("told %+v, want row %d %s", b, row, what)
			}
		case r := <-ended:
			t.Fatalf("ended: %+v", r)
		}
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if code := boot(t, f, id(0), keys[0]); code != http.StatusOK {
		t.Errorf("the first boot was answered %d", code)
	}
	expect(2, "accepted")
	boot(t, f, id(1), stranger)
	boot(t, f, id(3), keys[3]) // main tells nothing of the stranger, whose request changes no status
	for range 2 {
		b := <-told
		if want := map[int]string{3: "knocking", 5: "accepted"}[b.Row]; b.What != want {
			t.Errorf("told %+v", b)
		}
	}
	boot(t, f, `{"mac":"02:00:00:00:00:02","extra":"x"}`, keys[2])
	expect(4, "wrong-identity")
	boot(t, f, id(1), keys[1])
	boot(t, f, id(2), keys[2])
	r := <-ended
	if r.err != nil || r.Accepted != n || r.Devices != n {
		t.Errorf("%+v", r)
	}
	again, err := l.Watch(t.Context(), station.WatchOptions{Once: true, Silent: time.Nanosecond})
	if err != nil || again.Accepted != n || again.Silent != 0 {
		t.Errorf("%+v, %v", again, err)
	}
}
