//go:build cgo

package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// authServer answers a device's authentication request as a Mender server does:
// it wants the one key, and a signature of the raw body by it.
type authServer struct {
	public []byte // SPKI

	mu       sync.Mutex // guards the rest
	accepted bool
	refused  []string // why
}

func (a *authServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/authentication/auth_requests") {
		http.NotFound(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	reason := a.judge(body, r.Header.Get("X-MEN-Signature"))
	a.mu.Lock()
	defer a.mu.Unlock()
	if reason != "" {
		a.refused = append(a.refused, reason)
		http.Error(w, `{"error":"dev auth: unauthorized"}`, http.StatusUnauthorized)
		return
	}
	a.accepted = true
	_, _ = io.WriteString(w, "eyJhbGciOiJub25lIn0.e30.")
}

func (a *authServer) judge(body []byte, header string) string {
	var request struct{ Pubkey string }
	if err := json.Unmarshal(body, &request); err != nil {
		return err.Error()
	}
	block, _ := pem.Decode([]byte(request.Pubkey))
	if block == nil || !bytes.Equal(block.Bytes, a.public) {
		return "another key"
	}
	signature, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		return err.Error()
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err.Error()
	}
	digest := sha256.Sum256(body)
	valid := false
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		valid = ecdsa.VerifyASN1(key, digest[:], signature)
	case *rsa.PublicKey:
		valid = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	}
	if !valid {
		return "the signature doesn't verify"
	}
	return ""
}

// identityScripts is where Debian's client looks for the identity script. The
// package has none there: the test mounts its own, in a namespace of its own.
const identityScripts = "/usr/share/mender/identity"

// A device with Debian's mender-client takes its key from its token, by the
// mender.conf that keymill writes, and a server that knows the public key
// accepts it.
func TestMenderClientWithItsKeyInAToken(t *testing.T) {
	mender := needTool(t, "mender", "mender-client")
	engine := needFile(t, "libengine-pkcs11-openssl", "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so", "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so")
	needFile(t, "mender-client", identityScripts)
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		missing(t, "the right to unshare mount namespaces, for the identity script: "+string(out), "util-linux (as root)")
	}
	for _, alg := range []Algorithm{ECDSAP256, RSA3072} {
		t.Run(string(alg), func(t *testing.T) {
			token := newSoftHSM(t)
			uri, public := token.withKey(t, alg, "mender")
			key, _, _ := strings.Cut(uri, "?")
			server := &authServer{public: public}
			listener := httptest.NewTLSServer(server)
			defer listener.Close()
			data := menderData(t, listener, key+"?pin-value=4321")
			u, err := ParseURI(token.uri)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$DATA/identity" "$SCRIPTS" && exec timeout 60 "$MENDER" \
				--no-syslog --config "$DATA/mender.conf" --fallback-config "$DATA/none.conf" --data "$DATA" bootstrap`)
			cmd.Env = append(os.Environ(), "PKCS11_MODULE_PATH="+u.ModulePath, "OPENSSL_ENGINES="+filepath.Dir(engine),
				"DATA="+data, "SCRIPTS="+identityScripts, "MENDER="+mender)
			out, err := cmd.CombinedOutput()
			server.mu.Lock()
			defer server.mu.Unlock()
			if err != nil || !server.accepted || len(server.refused) > 0 {
				t.Errorf("accepted %v, refused %q, %v\n%s", server.accepted, server.refused, err, out)
			}
			if left, err := os.ReadFile(filepath.Join(data, "mender-agent.pem")); err == nil {
				t.Errorf("the client made a key of its own: %d bytes", len(left))
			}
		})
	}
}

// menderData returns a /data/mender whose mender.conf names the server and the key.
func menderData(t *testing.T, server *httptest.Server, uri string) string {
	t.Helper()
	data := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	fragment, err := MenderSecurity(uri, Engine)
	if err != nil {
		t.Fatal(err)
	}
	conf := map[string]any{
		"ServerURL": server.URL, "ServerCertificate": filepath.Join(data, "server.crt"), "DBus": map[string]bool{"Enabled": false},
	}
	if err := json.Unmarshal(fragment, &conf); err != nil {
		t.Fatal(err)
	}
	merged, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"mender.conf": merged, "server.crt": ca, "device_type": []byte("device_type=trial\n")} {
		if err := os.WriteFile(filepath.Join(data, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(data, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	script := []byte("#!/bin/sh\necho mac=02:12:61:13:6c:42\n")
	if err := os.WriteFile(filepath.Join(data, "identity", "mender-device-identity"), script, 0o700); err != nil {
		t.Fatal(err)
	}
	return data
}
