package sandbox

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// needClient skips a test on a machine that can't boot a mender-client, and
// fails it in CI.
func needClient(t *testing.T) {
	t.Helper()
	lacking := t.Skip
	if os.Getenv("CI") != "" {
		lacking = t.Fatal
	}
	if _, err := exec.LookPath("mender"); err != nil {
		lacking("needs mender: apt-get install mender-client")
	}
	if os.Geteuid() != 0 {
		lacking("needs root, for a mount namespace")
	}
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		lacking("needs to unshare mount namespaces: ", string(out))
	}
}

// bootClient boots a mender-client with the key and the identity and returns
// boot-client.sh's exit code.
func bootClient(t *testing.T, url string, ca, key []byte, identity ...string) int {
	t.Helper()
	return bootClientIn(t, t.TempDir(), url, ca, key, identity...)
}

// bootClientIn is bootClient with a folder that outlives it; dir/data is the
// device's /data/mender then.
func bootClientIn(t *testing.T, dir, url string, ca, key []byte, identity ...string) int {
	t.Helper()
	caFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "key.pem")
	write(t, caFile, ca)
	write(t, keyFile, key)
	args := append([]string{url, caFile, keyFile, filepath.Join(dir, "data")}, identity...)
	out, err := exec.CommandContext(t.Context(), "testdata/boot-client.sh", args...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Logf("boot-client.sh: %s", lastLines(out, 1))
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func lastLines(out []byte, n int) []byte {
	for i := len(out) - 1; i >= 0; i-- {
		if out[i] == '\n' {
			if n--; n < 0 {
				return out[i+1:]
			}
		}
	}
	return out
}

// newKey makes a key pair: the private key as PKCS#8 PEM, the public one as
// PKIX PEM.
func newKey(t testing.TB, algorithm string) (private, public []byte) {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algorithm {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa-p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa-3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		t.Fatalf("algorithm %q", algorithm)
	}
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), publicPEM(t, key.Public())
}

func publicPEM(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
}

// TestRealClient boots Debian's mender-client against the sandbox: with the
// preauthorized key the device is accepted, with another key it is not.
func TestRealClient(t *testing.T) {
	needClient(t)
	srv := start(t, Config{})
	for _, algorithm := range []string{"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-3072"} {
		t.Run(algorithm, func(t *testing.T) {
			private, public := newKey(t, algorithm)
			other, _ := newKey(t, algorithm)
			id := `{"serial":"` + algorithm + `","mac":"02:12:61:13:6c:42"}`
			attrs := []string{"mac=02:12:61:13:6c:42", "serial=" + algorithm}
			srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusCreated)

			if code := bootClient(t, srv.url, srv.CACert(), other, attrs...); code != 1 {
				t.Errorf("with another key: boot-client.sh exits with %d, want 1", code)
			}
			d := srv.device(t, id)
			if d.Status != "preauthorized" || len(d.AuthSets) != 2 || d.AuthSets[1].Status != "pending" {
				t.Errorf("after another key's boot: %s", d)
			}
			if code := bootClient(t, srv.url, srv.CACert(), private, attrs...); code != 0 {
				t.Errorf("with the preauthorized key: boot-client.sh exits with %d, want 0", code)
			}
			d = srv.device(t, id)
			if d.Status != "accepted" || d.AuthSets[0].Status != "accepted" || d.AuthSets[1].Status != "pending" {
				t.Errorf("after the preauthorized key's boot: %s", d)
			}
		})
	}
}

// TestRealClientTraps boots with what a client and a server make of a key file
// and an identity that are nearly right.
func TestRealClientTraps(t *testing.T) {
	needClient(t)
	srv := start(t, Config{})
	private, public := newKey(t, "ecdsa-p256")
	der, _ := pem.Decode(private)
	for name, c := range map[string]struct {
		key  []byte
		mac  string
		code int
	}{
		"MAC in upper case":                     {private, "02:00:00:00:AA:01", 1},
		"MAC with dashes":                       {private, "02-00-00-00-aa-01", 1},
		"a DER file, which the client replaces": {der.Bytes, "02:00:00:00:aa:01", 4},
	} {
		t.Run(name, func(t *testing.T) {
			srv.do(t, "POST", "/devices", preauth(`{"mac":"02:00:00:00:aa:01"}`, public, true)).want(t, http.StatusCreated)
			if code := bootClient(t, srv.url, srv.CACert(), c.key, "mac="+c.mac); code != c.code {
				t.Errorf("boot-client.sh exits with %d, want %d", code, c.code)
			}
			if d := srv.device(t, `{"mac":"02:00:00:00:aa:01"}`); d.Status != "preauthorized" {
				t.Errorf("the device is %s", d)
			}
		})
	}
}

// TestRealClientStays lets the client's daemon run on after the first boot until
// it has sent its inventory and asked for an update.
func TestRealClientStays(t *testing.T) {
	needClient(t)
	srv := start(t, Config{})
	private, public := newKey(t, "ed25519")
	srv.do(t, "POST", "/devices", preauth(`{"mac":"02:00:00:00:bb:01"}`, public, false)).want(t, http.StatusCreated)
	dir := t.TempDir()
	if code := bootClientIn(t, dir, srv.url, srv.CACert(), private, "mac=02:00:00:00:bb:01"); code != 0 {
		t.Fatalf("boot-client.sh exits with %d", code)
	}
	etc := filepath.Join(dir, "etc")
	if err := os.Mkdir(etc, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(etc, "artifact_info"), []byte("artifact_name=release-1\n"))
	ctx, cancel := context.WithCancel(t.Context())
	daemon := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", `
		mount --bind "$0/data/identity" /usr/share/mender/identity && mkdir -p /etc/mender && mount --bind "$0/etc" /etc/mender &&
		exec mender --no-syslog --config "$0/data/mender.conf" --fallback-config "$0/none" --data "$0/data" daemon`, dir)
	var log bytes.Buffer
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		n := srv.Stats()
		return n.Requests[OpDevice] >= 2 && n.Answers[http.StatusNoContent] >= 1
	})
	cancel()
	_ = daemon.Wait() // it was killed
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=error") && !strings.Contains(line, "DBus not enabled") {
			t.Errorf("the client complains: %s", line)
		}
	}
}
