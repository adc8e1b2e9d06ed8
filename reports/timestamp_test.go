package reports

import (
	"bytes"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// authority is a time stamping authority made of openssl.
type authority struct {
	dir   string
	roots *x509.CertPool
	url   string
}

const authorityConfig = `
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical,CA:true
[tsa]
basicConstraints = CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[ts]
default_tsa = ours
[ours]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:1, millisecs:500
ess_cert_id_alg = sha256
clock_precision_digits = 3
tsa_name = yes
`

func newAuthority(t *testing.T, algorithm ...string) *authority {
	t.Helper()
	openssl := needTool(t, "openssl", "openssl")
	a := &authority{dir: t.TempDir(), roots: x509.NewCertPool()}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("c.cnf", authorityConfig)
	write("serial", "01\n")
	run := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), openssl, args...)
		cmd.Dir = a.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run(append([]string{"genpkey", "-out", "ca.key"}, algorithm...)...)
	run(append([]string{"genpkey", "-out", "tsa.key"}, algorithm...)...)
	run("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=Test CA", "-days", "30", "-config", "c.cnf", "-extensions", "ca", "-out", "ca.pem")
	run("req", "-new", "-key", "tsa.key", "-subj", "/CN=Test TSA", "-config", "c.cnf", "-out", "tsa.csr")
	run("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
		"-extfile", "c.cnf", "-extensions", "tsa", "-out", "tsa.pem")
	pem, err := os.ReadFile(filepath.Join(a.dir, "ca.pem"))
	if err != nil || !a.roots.AppendCertsFromPEM(pem) {
		t.Fatalf("ca.pem: %v", err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Content-Type") != "application/timestamp-query" {
			http.Error(w, "no query", http.StatusBadRequest)
			return
		}
		write("query", string(query))
		run("ts", "-reply", "-config", "c.cnf", "-section", "ours", "-queryfile", "query", "-signer", "tsa.pem",
			"-inkey", "tsa.key", "-chain", "ca.pem", "-out", "reply")
		http.ServeFile(w, r, filepath.Join(a.dir, "reply"))
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

func TestTimestamps(t *testing.T) {
	for name, algorithm := range map[string][]string{
		"rsa":   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
		"ecdsa": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t, algorithm...)
			l, key := newLedger(t), stationKey("a")
			l.fill("lot-1", 10)
			opt := signedOptions(l, key, "jsonl")
			opt.Timestamp = TimestampAuthority(http.DefaultClient, a.url)
			dir, res := exportLot(t, l, "lot-1", opt)

			trust := trusted(key)
			wantValid(t, verify(t, dir, trust))
			trust.Authorities = a.roots
			wantValid(t, verify(t, dir, trust))
			trust.Authorities = x509.NewCertPool()
			wantProblem(t, verify(t, dir, trust), "not trusted")

			// openssl says the same of the files.
			cmd := exec.CommandContext(t.Context(), "openssl", "ts", "-verify", "-data", filepath.Join(dir, "log/line-3/checkpoint"),
				"-in", filepath.Join(dir, "log/line-3/checkpoint.tsr"), "-CAfile", filepath.Join(a.dir, "ca.pem"))
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Verification: OK") {
				t.Errorf("openssl ts: %v\n%s", err, out)
			}
			checkStampBits(t, filepath.Join(dir, "log/line-3/checkpoint.tsr"), res.Checkpoint, a.roots)
		})
	}
}

// checkStampBits changes a time stamp bit by bit: what still verifies must say
// the same time of the same data. (The bundle's statement covers every bit.)
func checkStampBits(t *testing.T, file string, data []byte, roots *x509.CertPool) {
	t.Helper()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := parseTimestamp(good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		got, err := parseTimestamp(bad)
		if err != nil || got.covers(data) != nil {
			continue
		}
		if _, err := got.verify(roots); err == nil && (!got.time.Equal(want.time) || !bytes.Equal(got.content, want.content)) {
			t.Fatalf("bit %d changes the time stamp unnoticed", i)
		}
	}
}

func TestTimestampsThatAreMissingOrWrong(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 5)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	trust := trusted(key)
	trust.Authorities = x509.NewCertPool()
	wantProblem(t, verify(t, dir, trust), "no time stamp")

	for name, handler := range map[string]http.HandlerFunc{
		"refusal":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{0x30, 5, 0x30, 3, 2, 1, 2}) },
		"nonsense": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) },
		"error":    func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) },
	} {
		server := httptest.NewServer(handler)
		opt := signedOptions(l, key, "jsonl")
		opt.Timestamp = TimestampAuthority(server.Client(), server.URL)
		if _, err := Export(t.Context(), l, "lot-1", filepath.Join(t.TempDir(), "report"), opt); err == nil || !strings.Contains(err.Error(), "time stamp") {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
	}
}

func FuzzParseTimestamp(f *testing.F) {
	f.Add([]byte{0x30, 5, 0x30, 3, 2, 1, 2})
	f.Fuzz(func(_ *testing.T, data []byte) {
		if t, err := parseTimestamp(data); err == nil {
			_, _ = t.verify(x509.NewCertPool())
		}
	})
}
