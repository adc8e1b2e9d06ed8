package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

func needTool(t testing.TB, tool, debian string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing (Debian: %s)", tool, debian)
		}
		t.Skipf("%s is missing (Debian: %s)", tool, debian)
	}
	return path
}

func newKey(t testing.TB, kind string) (key crypto.Signer) {
	t.Helper()
	var err error
	switch kind {
	case "p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "rsa1024":
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func spkiOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func now() time.Time { return time.Now() }

// caTemplate is a CA as it should be; change it for one that isn't.
func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: []string{"Example"}},
		NotBefore: now().Add(-time.Hour), NotAfter: now().AddDate(30, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// newChain makes a root and a device CA below it.
func newChain(t testing.TB, kind string, change func(root, device *x509.Certificate)) ([]*x509.Certificate, crypto.Signer) {
	t.Helper()
	rootKey, key := newKey(t, "p256"), newKey(t, kind)
	root, device := caTemplate("Example Root"), caTemplate("Example Device CA")
	if change != nil {
		change(root, device)
	}
	sign := func(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	top := sign(root, root, rootKey.Public())
	return []*x509.Certificate{sign(device, top, key.Public()), top}, key
}

func example() Profile {
	return Profile{
		Subject: "CN={{.serial}},serialNumber={{.mac}},O=Example\\, Inc.,C=DE", DNS: []string{"{{.serial}}.devices.example.com"}, URI: []string{"urn:example:{{.serial}}"},
		HardwareType: "1.3.6.1.4.1.99999.1", HardwareSerial: "{{.serial}}", Days: 7300,
	}
}

func attrs() map[string]string {
	return map[string]string{"serial": "SN-000123", "mac": "02:00:00:00:01:23"}
}

// Each kind of device key, under each kind of CA, with and without an end:
// openssl verifies it, and zlint finds no error.
func TestCertificates(t *testing.T) {
	openssl := needTool(t, "openssl", "openssl")
	for _, authority := range []string{"p256", "p384", "rsa", "ed25519"} {
		chain, key := newChain(t, authority, func(root, device *x509.Certificate) {
			root.NotAfter, device.NotAfter = NoExpiry(), NoExpiry()
		})
		for _, device := range []string{"p256", "p384", "rsa", "ed25519"} {
			for _, days := range []int{7300, 0} {
				t.Run(fmt.Sprintf("%s by %s, %d days", device, authority, days), func(t *testing.T) {
					p := example()
					p.Days = days
					a, err := Open(chain, key, p, now())
					if err != nil {
						t.Fatal(err)
					}
					made, err := a.Issue(attrs(), spkiOf(t, newKey(t, device)), now())
					if err != nil {
						t.Fatal(err)
					}
					checkCertificate(t, made, days)
					checkOpenSSL(t, openssl, a, made)
					checkZlint(t, made.DER)
				})
			}
		}
	}
}

func checkCertificate(t *testing.T, made *Certificate, days int) {
	t.Helper()
	cert, err := x509.ParseCertificate(made.DER)
	if err != nil {
		t.Fatal(err)
	}
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(cert.RawSubject, &name); err != nil {
		t.Fatal(err)
	}
	if got := name.String(); got != `CN=SN-000123,SERIALNUMBER=02:00:00:00:01:23,O=Example\, Inc.,C=DE` {
		t.Errorf("subject %s", got)
	}
	if got := fmt.Sprintf("%x", cert.SerialNumber); got != made.Serial || len(got) != 40 {
		t.Errorf("serial %s, %s", got, made.Serial)
	}
	if len(cert.DNSNames) != 1 || len(cert.URIs) != 1 || len(cert.SubjectKeyId) != 20 || len(cert.AuthorityKeyId) == 0 || cert.IsCA || !cert.BasicConstraintsValid {
		t.Errorf("%+v", cert)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		t.Errorf("usage %v %v", cert.ExtKeyUsage, cert.KeyUsage)
	}
	if !cert.NotAfter.Equal(made.NotAfter) || days == 0 && !cert.NotAfter.Equal(NoExpiry()) || !bytes.Contains(made.DER, []byte("SN-000123")) {
		t.Errorf("ends %v", cert.NotAfter)
	}
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func checkOpenSSL(t *testing.T, openssl string, a *Authority, made *Certificate) {
	t.Helper()
	leaf, root := write(t, "leaf.pem", a.Chain(made)), write(t, "root.pem", encode(a.chain[len(a.chain)-1].Raw))
	out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", leaf, leaf).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.Command(openssl, "x509", "-in", leaf, "-noout", "-text").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "TLS Web Client Authentication") || !strings.Contains(string(out), "DNS:SN-000123.devices.example.com") {
		t.Errorf("%v: %s", err, out)
	}
	if a.profile.days == 0 && !strings.Contains(string(out), "Dec 31 23:59:59 9999 GMT") {
		t.Errorf("%s", out)
	}
}

// checkZlint lints a certificate by RFC 5280 and what else zlint knows, but for
// the browsers' rules, which are for servers.
func checkZlint(t *testing.T, der []byte) {
	t.Helper()
	cert, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC8813, lint.Community}})
	if err != nil {
		t.Fatal(err)
	}
	results := zlint.LintCertificateEx(cert, registry)
	ran := 0
	for name, r := range results.Results {
		if r.Status >= lint.Pass {
			ran++
		}
		if r.Status == lint.Error || r.Status == lint.Fatal {
			t.Errorf("zlint: %s: %s", name, r.Details)
		}
	}
	if ran < 30 {
		t.Errorf("zlint ran %d lints only", ran)
	}
}

// What a CA must not or can't do is said before the first device.
func TestPolicy(t *testing.T) {
	for name, test := range map[string]struct {
		kind    string
		change  func(root, device *x509.Certificate)
		profile func(*Profile)
		hint    string
	}{
		"no CA": {change: func(_, d *x509.Certificate) {
			d.IsCA, d.KeyUsage = false, x509.KeyUsageDigitalSignature
			d.SubjectKeyId = []byte{1}
		}, hint: "CA:TRUE"},
		"may not sign":        {change: func(_, d *x509.Certificate) { d.KeyUsage = x509.KeyUsageDigitalSignature }, hint: "keyCertSign"},
		"pathlen of the root": {change: func(r, _ *x509.Certificate) { r.MaxPathLenZero = true }, hint: "pathlen"},
		"expired":             {change: func(_, d *x509.Certificate) { d.NotAfter = now().Add(-time.Minute) }, hint: "clock"},
		"not yet":             {change: func(r, _ *x509.Certificate) { r.NotBefore = now().Add(time.Hour) }, hint: "clock"},
		"servers only":        {change: func(_, d *x509.Certificate) { d.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, hint: "clientAuth"},
		"ends too early":      {change: func(_, d *x509.Certificate) { d.NotAfter = now().AddDate(1, 0, 0) }, hint: "certificates.days"},
		"small RSA":           {kind: "rsa1024", hint: "2048"},
		"names are constrained": {change: func(r, _ *x509.Certificate) {
			r.PermittedDNSDomainsCritical, r.PermittedDNSDomains = true, []string{"other.example"}
		}, hint: "name constraints"},
		"no subject":         {profile: func(p *Profile) { p.Subject = "" }, hint: "certificates section"},
		"unknown part":       {profile: func(p *Profile) { p.Subject = "CN=x,FOO=y" }, hint: "certificates section"},
		"broken template":    {profile: func(p *Profile) { p.Subject = "CN={{.serial" }, hint: "certificates section"},
		"hardware type only": {profile: func(p *Profile) { p.HardwareSerial = "" }, hint: "certificates section"},
		"bad hardware type":  {profile: func(p *Profile) { p.HardwareType = "1.99.x" }, hint: "certificates section"},
		"days below 0":       {profile: func(p *Profile) { p.Days = -1 }, hint: "certificates section"},
	} {
		t.Run(name, func(t *testing.T) {
			kind := test.kind
			if kind == "" {
				kind = "p256"
			}
			chain, key := newChain(t, kind, test.change)
			p := example()
			if test.profile != nil {
				test.profile(&p)
			}
			_, err := Open(chain, key, p, now())
			policy, ok := errors.AsType[*PolicyError](err)
			if !ok || !strings.Contains(policy.Hint(), test.hint) {
				t.Errorf("got %v, want advice on %q", err, test.hint)
			}
		})
	}
	chain, _ := newChain(t, "p256", nil)
	if _, err := Open(chain, newKey(t, "p256"), example(), now()); err == nil {
		t.Error("took another CA's key")
	}
	chain, key := newChain(t, "p256", nil)
	other, _ := newChain(t, "p256", nil)
	if _, err := Open([]*x509.Certificate{chain[0], other[1]}, key, example(), now()); err == nil {
		t.Error("took a chain that is none")
	}
}

// A device's own faults are its own.
func TestDevicesThatGetNoCertificate(t *testing.T) {
	chain, key := newChain(t, "p256", func(r, _ *x509.Certificate) {
		r.PermittedDNSDomainsCritical, r.PermittedDNSDomains = true, []string{"devices.example.com"}
	})
	constrained := example()
	constrained.URI = nil
	a, err := Open(chain, key, constrained, now())
	if err != nil {
		t.Fatal(err)
	}
	if subject, err := a.Check(attrs(), now()); err != nil || !strings.HasPrefix(subject, "CN=SN-000123,") {
		t.Errorf("%q, %v", subject, err)
	}
	for name, change := range map[string]func(map[string]string){
		"no such attribute":   func(m map[string]string) { delete(m, "mac") },
		"empty":               func(m map[string]string) { m["mac"] = "" },
		"a newline":           func(m map[string]string) { m["serial"] = "a\nb" },
		"too long":            func(m map[string]string) { m["serial"] = strings.Repeat("x", 65) },
		"not printable":       func(m map[string]string) { m["mac"] = "ä" },
		"no DNS name":         func(m map[string]string) { m["serial"] = "a_b" },
		"a blank at the edge": func(m map[string]string) { m["mac"] = " 02" },
		"not UTF-8":           func(m map[string]string) { m["serial"] = "\xff" },
	} {
		m := attrs()
		change(m)
		if _, err := a.Check(m, now()); err == nil {
			t.Errorf("%s: passed", name)
		}
		if _, err := a.Issue(m, spkiOf(t, newKey(t, "p256")), now()); err == nil {
			t.Errorf("%s: got a certificate", name)
		}
	}
	// An attribute is a value, never a part of the name.
	m := attrs()
	p := example()
	p.DNS, p.URI = nil, nil
	m["serial"] = "x,O=Other+CN=admin"
	b, err := Open(chain, key, p, now())
	if err != nil {
		t.Fatal(err)
	}
	made, err := b.Issue(m, spkiOf(t, newKey(t, "p256")), now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(made.DER)
	if err != nil || cert.Subject.CommonName != m["serial"] || len(cert.Subject.Organization) != 1 {
		t.Errorf("%v, %v", cert.Subject, err)
	}
}

func TestCRL(t *testing.T) {
	openssl := needTool(t, "openssl", "openssl")
	chain, key := newChain(t, "p256", nil)
	a, err := Open(chain, key, example(), now())
	if err != nil {
		t.Fatal(err)
	}
	good, err := a.Issue(attrs(), spkiOf(t, newKey(t, "p256")), now())
	if err != nil {
		t.Fatal(err)
	}
	bad, err := a.Issue(attrs(), spkiOf(t, newKey(t, "p256")), now())
	if err != nil {
		t.Fatal(err)
	}
	list, err := CRL(chain[0], key, []Revoked{{bad.Serial, now(), KeyCompromise}}, big.NewInt(1), now(), now().AddDate(0, 0, 30))
	if err != nil {
		t.Fatal(err)
	}
	crl, root := write(t, "crl.pem", list), write(t, "root.pem", encode(chain[1].Raw))
	for made, want := range map[*Certificate]string{good: ": OK", bad: "certificate revoked"} {
		leaf := write(t, "leaf.pem", a.Chain(made))
		out, _ := exec.Command(openssl, "verify", "-crl_check", "-CRLfile", crl, "-CAfile", root, "-untrusted", leaf, leaf).CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Errorf("%s, want %s", out, want)
		}
	}
}

// Whatever a template and attributes are, a certificate comes out that
// crypto/x509 reads, or an error.
func FuzzSubject(f *testing.F) {
	f.Add("CN={{.serial}},O=Example", "SN-1", "host")
	f.Add(`CN=a\,b{{.serial}},DC=x,C=DE`, "ä", "x.y")
	f.Add("CN={{printf \"%s,%s\" .serial .host}}", "a", "b")
	chain, key := newChain(f, "p256", nil)
	spki := spkiOf(f, newKey(f, "p256"))
	f.Fuzz(func(t *testing.T, subject, serial, host string) {
		if strings.Contains(subject, "{{") && len(subject) > 200 {
			t.Skip() // templates that loop are their author's
		}
		a, err := Open(chain, key, Profile{Subject: subject, DNS: []string{"{{.host}}"}, HardwareType: "1.3.6.1.4.1.9.9", HardwareSerial: "{{.serial}}", Days: 1}, now())
		if err != nil {
			return
		}
		made, err := a.Issue(map[string]string{"serial": serial, "host": host}, spki, now())
		if err != nil {
			return
		}
		cert, err := x509.ParseCertificate(made.DER)
		if err != nil {
			t.Fatalf("%v\n%s", err, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.DER}))
		}
		if err := cert.CheckSignatureFrom(chain[0]); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	chain, key := newChain(b, "p256", nil)
	a, err := Open(chain, key, example(), now())
	if err != nil {
		b.Fatal(err)
	}
	spki := spkiOf(b, newKey(b, "p256"))
	for b.Loop() {
		if _, err := a.Issue(attrs(), spki, now()); err != nil {
			b.Fatal(err)
		}
	}
}
