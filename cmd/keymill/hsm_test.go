package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// token sets up a SoftHSM below the factory and returns its URI.
func (f *factory) token(t *testing.T) string {
	t.Helper()
	needTools(t, "softhsm2", "softhsm2-util")
	out, err := exec.Command("../../hsm/testdata/token.sh", "softhsm", f.path("token"), "factory").Output()
	if err != nil {
		t.Fatal(err)
	}
	uri := ""
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "URI" {
			uri = value
			continue
		}
		t.Setenv(name, value)
	}
	return uri
}

// TestHSMLot makes the keys of whole lots in a token, and has the server's
// device side judge every key out of its image by a signature.
func TestHSMLot(t *testing.T) {
	lots := []struct {
		algorithm string
		devices   int
	}{{"ecdsa-p256", 2000}, {"rsa-3072", 20}}
	if testing.Short() {
		lots[0].devices, lots = 100, lots[:1]
	}
	for _, lot := range lots {
		t.Run(lot.algorithm, func(t *testing.T) {
			f := newFactory(t, lot.devices, sandbox.Config{})
			uri := f.token(t)
			code, _, errs := f.call(f.args("--keys", "hsm", "--hsm", uri, "--algorithm", lot.algorithm, "--format", "pack")...)
			if code != 0 {
				t.Fatalf("exit %d: %s", code, errs)
			}
			f.checkLot(lot.devices)
			f.bootAll(t)
			f.checkTokenEmpty(t, uri)
		})
	}
}

// bootAll signs an authentication request with the key out of each device's
// pack entry, as the device would, and counts who is accepted.
func (f *factory) bootAll(t *testing.T) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.box.CACert())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	pack, err := imaging.ReadPack(f.path("out", "lot.pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	for _, rec := range f.records() {
		_, overlay, err := pack.Read(imaging.Ref(rec.Pack))
		if err != nil {
			t.Fatal(err)
		}
		private, err := imaging.ReadContent(overlay.Template, 0, overlayBytes{overlay})
		if err != nil {
			t.Fatal(err)
		}
		if status := authorize(t, client, f.server, rec, private); status != http.StatusOK {
			t.Fatalf("%s: the server answers the device with %d", rec.Identity, status)
		}
	}
	client.CloseIdleConnections()
}

// overlayBytes shows an overlay's extents; a key lies within one of them.
type overlayBytes struct{ *imaging.Overlay }

func (o overlayBytes) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for _, e := range o.Extents() {
		lo, hi := max(off, e.Offset), min(off+int64(len(p)), e.Offset+int64(len(e.Data)))
		if lo < hi {
			copy(p[lo-off:hi-off], e.Data[lo-e.Offset:])
		}
	}
	return len(p), nil
}

// authorize does what mender-client does when it is turned on.
func authorize(t *testing.T, client *http.Client, server string, rec *pipeline.Record, private []byte) int {
	t.Helper()
	block, _ := pem.Decode(private)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: rec.PublicKey})
	body, err := json.Marshal(map[string]string{"id_data": string(rec.Identity.JSON()), "pubkey": string(public), "tenant_token": ""})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(body)
	var signature []byte
	if rsaKey, ok := key.(*rsa.PrivateKey); ok {
		signature, err = rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	} else {
		signature, err = key.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, server+"/api/devices/v1/authentication/auth_requests", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-MEN-Signature", base64.StdEncoding.EncodeToString(signature))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// checkTokenEmpty: no key is left in the token after gc has cleaned up.
func (f *factory) checkTokenEmpty(t *testing.T, uri string) {
	t.Helper()
	for _, args := range [][]string{{"hsm", "gc", "--destroy"}, {"hsm", "list", "--objects", "--json"}} {
		code, out, errs := f.call(append(args, "--hsm", uri, "--ledger", f.ledger)...)
		if code != 0 {
			t.Fatalf("%v: exit %d: %s", args, code, errs)
		}
		if strings.Contains(out, `"spki_sha256"`) {
			t.Errorf("keys are left in the token:\n%s", out)
		}
	}
}

// TestKeysInToken: the keys stay in the token; the images say where, and hold none.
func TestKeysInToken(t *testing.T) {
	f := newFactory(t, 3, sandbox.Config{})
	uri := f.token(t)
	if code, _, errs := f.call(f.args("--keys", "token", "--hsm", uri, "--algorithm", "ecdsa-p256")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	if stray := f.strayKeys(); len(stray) > 0 {
		t.Errorf("private keys lie in %v", stray)
	}
	seen := map[string]bool{}
	for _, rec := range f.records() {
		if rec.State != pipeline.Released {
			t.Errorf("%s is %s: %s", rec.Identity, rec.State, rec.Reason)
		}
		image := f.path("out", "images", rec.Output.Name)
		data, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a private key", image)
		}
		out, err := exec.Command("mender-artifact", "cat", image+":/data/mender/mender.conf").Output()
		if err != nil || !bytes.Contains(out, []byte("pkcs11:")) || seen[string(out)] {
			t.Errorf("%s: mender.conf is %q, %v", image, out, err)
		}
		seen[string(out)] = true
	}
	code, out, errs := f.call("hsm", "list", "--objects", "--json", "--hsm", uri, "--ledger", f.ledger)
	if n := strings.Count(out, `"spki_sha256"`); code != 0 || n != 3 {
		t.Errorf("exit %d, %d keys in the token, want 3: %s", code, n, errs)
	}
}

// TestHSMKillNine kills a lot whose keys come from a token, again and again.
func TestHSMKillNine(t *testing.T) {
	const devices = 400
	f := newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond}})
	uri := f.token(t)
	args := f.args("--keys", "hsm", "--hsm", uri, "--algorithm", "ecdsa-p256", "--format", "pack", "--in-flight", "4")
	t.Logf("killed %d times in the middle", f.killInTheMiddle(args, 10))
	f.box.SetFaults(sandbox.Faults{})
	if code, _, errs := f.call(args...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	f.checkLot(devices)
	f.checkBooks(devices, "pack")
	f.checkTokenEmpty(t, uri)
}

// TestTokenTakenAway moves the token away in the middle of a lot: the run stops
// with code 6, and ends when the token is back.
func TestTokenTakenAway(t *testing.T) {
	const devices = 300
	f := newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond}})
	uri := f.token(t)
	args := f.args("--keys", "hsm", "--hsm", uri, "--algorithm", "ecdsa-p256", "--format", "pack", "--in-flight", "4", "--workers", "16")
	cmd, log := f.process(args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.waitForDevices(30)
	if err := os.Rename(f.path("token", "tokens"), f.path("token", "gone")); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != exitHSM) {
		t.Fatalf("without its token: %v, want exit code %d\n%s", err, exitHSM, log)
	}
	if err := os.Rename(f.path("token", "gone"), f.path("token", "tokens")); err != nil {
		t.Fatal(err)
	}
	f.box.SetFaults(sandbox.Faults{})
	if code, _, errs := f.call(args...); code != 0 {
		t.Fatalf("with its token again: exit %d: %s", code, errs)
	}
	f.checkLot(devices)
}

// TestHSMRefusals: what cannot be done is said before the first device, with
// code 6 and what would work; there is no fall to software.
func TestHSMRefusals(t *testing.T) {
	f := newFactory(t, 2, sandbox.Config{})
	uri := f.token(t)
	wrongPIN := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrongPIN, []byte("0000"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		args []string
		code int
		says string
	}{
		"wrapped Ed25519":  {[]string{"--keys", "hsm", "--hsm", uri, "--algorithm", "ed25519"}, exitHSM, "hsm-entropy"},
		"RSA from entropy": {[]string{"--keys", "hsm-entropy", "--hsm", uri, "--algorithm", "rsa-3072"}, exitHSM, ""},
		"wrong PIN":        {[]string{"--keys", "hsm", "--hsm", strings.Replace(uri, f.path("token", "pin"), wrongPIN, 1), "--algorithm", "ecdsa-p256"}, exitHSM, "PIN"},
		"no such token":    {[]string{"--keys", "hsm", "--hsm", strings.Replace(uri, "token=factory", "token=nobody", 1), "--algorithm", "ecdsa-p256"}, exitHSM, ""},
		"no URI":           {[]string{"--keys", "hsm", "--algorithm", "ecdsa-p256"}, exitUsage, "--hsm"},
	}
	for name, c := range cases {
		code, _, errs := f.call(f.args(c.args...)...)
		if code != c.code || !strings.Contains(errs, c.says) || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: exit %d, want %d and a hint with %q:\n%s", name, code, c.code, c.says, errs)
		}
		if _, err := os.Stat(f.ledger); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s: a ledger was made for a refused lot", name)
		}
	}
	if code, _, errs := f.call(f.args("--keys", "hsm-entropy", "--hsm", uri)...); code != 0 {
		t.Errorf("hsm-entropy: exit %d: %s", code, errs)
	}
	f.checkLot(2)
}
