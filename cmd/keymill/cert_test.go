package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/imaging"
	"keymill/pipeline/mender/sandbox"
)

// certFactory is a factory with a root, a device CA, and an nginx that lets in
// who shows a certificate of theirs.
type certFactory struct {
	*factory
	root *x509.Certificate
	port int
}

func newCertFactory(f *factory) *certFactory {
	f.t.Helper()
	rootKey := f.ecKey("root.key")
	root := f.certificate("root.pem", caCertificate("Example Root"), nil, rootKey.Public(), rootKey)
	deviceKey := f.ecKey("ca.key")
	device := f.certificate("ca-alone.pem", caCertificate("Example Device CA"), root, deviceKey.Public(), rootKey)
	f.write("ca.pem", func(w io.Writer) error {
		for _, cert := range []*x509.Certificate{device, root} {
			if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
				return err
			}
		}
		return nil
	})
	return &certFactory{factory: f, root: root}
}

func caCertificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().AddDate(40, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func (f *factory) ecKey(name string) *ecdsa.PrivateKey {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name, func(w io.Writer) error { return pem.Encode(w, &pem.Block{Type: "PRIVATE KEY", Bytes: der}) })
	return key
}

func (f *factory) certificate(name string, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	f.t.Helper()
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name, func(w io.Writer) error { return pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der}) })
	return cert
}

// settings writes a keymill.yaml for lots with certificates.
func (f *certFactory) settings(more string) string {
	f.t.Helper()
	f.write("keymill.yaml", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, `certificates:
  ca: {certificate: %q, key: %q}
  subject: "CN={{.serial}},serialNumber={{.mac}},O=Example"
  uri: ["urn:dev:mac:{{.mac}}"]
  hardware_type: 1.3.6.1.4.1.99999.1
  hardware_serial: "{{.serial}}"
image:
  inject:
    - {path: /data/mender/mender-agent.pem, content: private-key, mode: "0600"}
    - {path: /data/mender/mender-cert.pem, content: certificate-chain, mode: "0644"}
%s`, f.path("ca.pem"), f.path("ca.key"), more)
		return err
	})
	return f.path("keymill.yaml")
}

// serve starts an nginx that wants a client certificate, and refuses those in crl.
func (f *certFactory) serve(crl []byte) {
	f.t.Helper()
	needTools(f.t, "nginx-light", "nginx")
	dir := f.t.TempDir()
	key := f.ecKey("web.key")
	web := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	f.certificate("web.pem", web, nil, key.Public(), key)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	lists := ""
	if crl != nil {
		f.write("all.crl", func(w io.Writer) error { _, err := w.Write(crl); return err })
		lists = "ssl_crl " + f.path("all.crl") + ";"
	}
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen 127.0.0.1:%[2]d ssl; ssl_certificate %[3]s; ssl_certificate_key %[4]s;
    ssl_client_certificate %[5]s; ssl_verify_client on; ssl_verify_depth 3; %[6]s
    location / { return 200 "$ssl_client_s_dn"; }
  }
}`, dir, f.port, f.path("web.pem"), f.path("web.key"), f.path("ca.pem"), lists)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "conf"))
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("nginx: %s", log.Bytes())
		}
	}
}

// visit asks nginx with the certificate and the key of a device's image.
func (f *certFactory) visit(device string) (status int, subject string) {
	f.t.Helper()
	pair, err := tls.X509KeyPair(f.fromImage(device, "mender-cert.pem"), f.fromImage(device, "mender-agent.pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}}}
	answer, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/", f.port))
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body)
}

// fromImage takes a file out of a device's image, as `keymill image write` makes it.
func (f *certFactory) fromImage(device, file string) []byte {
	f.t.Helper()
	path := f.path("image-" + strings.ReplaceAll(device, ":", "-"))
	if _, err := os.Stat(path); err != nil {
		code, _, errs := f.call("image", "write", "lot", device, "-o", path, "--ledger", f.ledger, "--golden", f.path("golden.sdimg"), "--config", f.path("keymill.yaml"))
		if code != 0 {
			f.t.Fatalf("image write: exit %d: %s", code, errs)
		}
	}
	golden, err := imaging.OpenGolden(f.t.Context(), f.path("golden.sdimg"), imaging.GoldenOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer golden.Close()
	data, err := golden.Data()
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := exec.Command("debugfs", "-R", "cat /mender/"+file, path+"?offset="+itoa(data.Offset)).Output()
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// TestDeviceCertificates: nginx lets devices in by certificates and keys from
// their images, for each algorithm; revoked ones are refused.
func TestDeviceCertificates(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ecdsa-p256", "rsa-3072", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			f := newCertFactory(newFactory(t, 3, sandbox.Config{}))
			config := f.settings("")
			code, _, errs := f.call(f.args("--algorithm", algorithm, "--format", "pack", "--config", config)...)
			if code != 0 {
				t.Fatalf("exit %d: %s", code, errs)
			}
			records := f.records()
			f.serve(nil)
			for _, rec := range records {
				status, subject := f.visit(rec.Identity.Name())
				if status != 200 || !strings.Contains(subject, "CN="+rec.AttrMap()["serial"]) {
					t.Errorf("%s: %d %s", rec.Identity, status, subject)
				}
				block, _ := pem.Decode(f.fromImage(rec.Identity.Name(), "mender-cert.pem"))
				cert, err := x509.ParseCertificate(block.Bytes)
				if err != nil || fmt.Sprintf("%x", cert.SerialNumber) != rec.Cert.Serial || !bytes.Equal(cert.RawSubjectPublicKeyInfo, rec.PublicKey) {
					t.Errorf("the certificate in the image is not the recorded one: %v", err)
				}
			}
			f.checkRevocation(config)
		})
	}
}

func (f *certFactory) checkRevocation(config string) {
	t := f.t
	t.Helper()
	records := f.records()
	at := []string{"--ledger", f.ledger, "--config", config}
	revoked := records[1].Identity.Name()
	if code, out, errs := f.call(append([]string{"cert", "revoke", "lot", revoked, "--reason", "key-compromise"}, at...)...); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if code, _, errs := f.call(append([]string{"cert", "revoke", "lot", revoked, "--reason", "key-compromise"}, at...)...); code != exitUsage {
		t.Errorf("twice: exit %d: %s", code, errs)
	}
	if code, out, errs := f.call(append([]string{"cert", "crl", "-o", f.path("device.crl")}, at...)...); code != 0 || !strings.Contains(out, "1 certificate") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	list, err := os.ReadFile(f.path("device.crl"))
	if err != nil {
		t.Fatal(err)
	}
	f.serve(append(list, f.rootCRL()...)) // nginx wants one of each CA
	for i, rec := range records {
		status, answer := f.visit(rec.Identity.Name())
		if want := map[bool]int{true: 400, false: 200}[i == 1]; status != want {
			t.Errorf("%s: %d %s, want %d", rec.Identity, status, answer, want)
		}
	}
	code, out, errs := f.call(append([]string{"cert", "show", "lot", "--json"}, at...)...)
	var shown []certView
	if err := json.Unmarshal([]byte(out), &shown); err != nil || code != 0 || len(shown) != 3 || shown[1].Revoked == nil || shown[0].Revoked != nil || shown[1].Reason != "key-compromise" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

// rootCRL is an empty list of the root.
func (f *certFactory) rootCRL() []byte {
	f.t.Helper()
	block, _ := pem.Decode(func() []byte { text, _ := os.ReadFile(f.path("root.key")); return text }())
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, f.root, key.(crypto.Signer))
	if err != nil {
		f.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// TestCertificatesAreCheckedFirst: what a CA can't do, and what a manifest
// lacks, is said before the first device.
func TestCertificatesAreCheckedFirst(t *testing.T) {
	t.Parallel()
	f := newCertFactory(newFactory(t, 3, sandbox.Config{}))
	good := f.settings("")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		from, to string
		code     int
		says     string
	}{
		"same subject":     {`CN={{.serial}},serialNumber={{.mac}},O=Example`, `O=Example`, exitManifest, "the same subject"},
		"no such column":   {`CN={{.serial}}`, `CN={{.colour}}`, exitManifest, "colour"},
		"value too long":   {`CN={{.serial}}`, "CN={{.serial}}" + strings.Repeat("0", 60), exitManifest, "characters"},
		"another key":      {f.path("ca.key"), f.path("root.key"), exitUsage, "first in its file"},
		"no CA":            {f.path("ca.pem"), f.path("none.pem"), exitUsage, "certificates.ca.certificate"},
		"nothing injected": {"certificate-chain", "private-key", exitUsage, ""},
		"no subject":       {`subject: "CN={{.serial}},serialNumber={{.mac}},O=Example"`, `subject: ""`, exitUsage, "subject"},
	} {
		f.write("keymill.yaml", func(w io.Writer) error {
			_, err := io.WriteString(w, strings.Replace(string(text), test.from, test.to, 1))
			return err
		})
		code, out, errs := f.call(f.args("--format", "pack", "--config", good)...)
		if code != test.code || !strings.Contains(errs, test.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s%s", name, code, test.code, test.says, out, errs)
		}
	}
	if n := countDevices(f.box); n != 0 {
		t.Errorf("%d devices were made", n)
	}
}
