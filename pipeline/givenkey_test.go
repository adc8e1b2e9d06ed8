package pipeline

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// must unwraps what can't fail on a machine with random numbers.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func asPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// keyForms are keys in all the forms that somebody may give.
func keyForms() (good, bad map[string]string) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	rsa2048, short := must(rsa.GenerateKey(rand.Reader, 2048)), must(rsa.GenerateKey(rand.Reader, 1024))
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	spki := func(key crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(key)) }
	edSPKI, ecSPKI, rsaSPKI := spki(ed.Public()), spki(&ec.PublicKey), spki(&rsa2048.PublicKey)
	edPEM := asPEM("PUBLIC KEY", edSPKI)
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(ec))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	cert := must(x509.CreateCertificate(rand.Reader, template, template, &ec.PublicKey, ec))
	request := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, ec))
	point := must(ec.PublicKey.ECDH()).Bytes()
	compressed := bytes.Replace(ecSPKI, point, elliptic.MarshalCompressed(elliptic.P256(), ec.X, ec.Y), 1)
	good = map[string]string{
		"PEM": edPEM, "PEM of P-256": asPEM("PUBLIC KEY", ecSPKI), "PEM of RSA": asPEM("PUBLIC KEY", rsaSPKI),
		"CRLF": strings.ReplaceAll(edPEM, "\n", "\r\n"), "base64": base64.StdEncoding.EncodeToString(ecSPKI),
		"base64url": base64.RawURLEncoding.EncodeToString(rsaSPKI), "hex": hex.EncodeToString(edSPKI),
		"hex, upper case with colons": strings.ToUpper(strings.TrimSuffix(strings.ReplaceAll(hexPairs(ecSPKI), " ", ":"), ":")),
		"base64 in lines":             base64.StdEncoding.EncodeToString(rsaSPKI)[:64] + "\n" + base64.StdEncoding.EncodeToString(rsaSPKI)[64:],
	}
	bad = map[string]string{
		"nothing":                 " ",
		"PKCS#8 private key":      asPEM("PRIVATE KEY", pkcs8),
		"PKCS#1 private key":      asPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(short)),
		"SEC1 private key":        asPEM("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(ec))),
		"encrypted private key":   asPEM("ENCRYPTED PRIVATE KEY", pkcs8),
		"OpenSSH private key":     asPEM("OPENSSH PRIVATE KEY", pkcs8),
		"private key in base64":   base64.StdEncoding.EncodeToString(pkcs8),
		"private key in hex":      hex.EncodeToString(must(x509.MarshalECPrivateKey(ec))),
		"certificate":             asPEM("CERTIFICATE", cert),
		"certificate in base64":   base64.StdEncoding.EncodeToString(cert),
		"certificate request":     asPEM("CERTIFICATE REQUEST", request),
		"PKCS#1 public key":       asPEM("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa2048.PublicKey)),
		"PKCS#1 public in base64": base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&rsa2048.PublicKey)),
		"PEM without its end":     edPEM[:60],
		"PEM without its begin":   edPEM[27:],
		"PEM on one line":         strings.ReplaceAll(edPEM, "\n", ""),
		"PEM twice":               edPEM + edPEM,
		"PEM with broken base64":  strings.Replace(edPEM, "MCow", "M*ow", 1),
		"another PEM":             asPEM("DH PARAMETERS", edSPKI),
		"SSH key":                 "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ8 me@here",
		"SSH key's base64":        "AAAAC3NzaC1lZDI1NTE5AAAAIGJ8",
		"JWK":                     `{"kty":"OKP","crv":"Ed25519"}`,
		"RSA 1024":                asPEM("PUBLIC KEY", spki(&short.PublicKey)),
		"P-224":                   asPEM("PUBLIC KEY", spki(&p224.PublicKey)),
		"X25519":                  asPEM("PUBLIC KEY", spki(x25519.PublicKey())),
		"RSA with exponent 1":     asPEM("PUBLIC KEY", bytes.Replace(rsaSPKI, []byte{2, 3, 1, 0, 1}, []byte{2, 3, 1, 0, 0}, 1)),
		"fingerprint":             Fingerprint(edSPKI),
		"raw key in base64":       base64.StdEncoding.EncodeToString(ed.Public().(ed25519.PublicKey)),
		"raw point":               hex.EncodeToString(point),
		"compressed point":        base64.StdEncoding.EncodeToString(compressed),
		"cut base64":              base64.StdEncoding.EncodeToString(ecSPKI[:60]),
		"something after it":      base64.StdEncoding.EncodeToString(append(bytes.Clone(ecSPKI), 1, 2, 3)),
		"words":                   "the key of device 7",
		"base64 of nothing":       "aGVsbG8gd29ybGQsIHRoaXMgaXMgbm8ga2V5IGF0IGFsbA==",
	}
	return good, bad
}

func hexPairs(der []byte) string {
	var b strings.Builder
	for _, c := range der {
		b.WriteString(hex.EncodeToString([]byte{c}) + " ")
	}
	return b.String()
}

func TestParsePublicKey(t *testing.T) {
	good, bad := keyForms()
	for name, text := range good {
		spki, algorithm, err := ParsePublicKey(text)
		if err != nil || algorithm == "" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, _, err := ParsePublicKey(base64.StdEncoding.EncodeToString(spki)); err != nil || !bytes.Equal(again, spki) {
			t.Errorf("%s: read again: %v", name, err)
		}
	}
	said := map[string]int{}
	for name, text := range bad {
		_, _, err := ParsePublicKey(text)
		flaw, ok := errors.AsType[*KeyFlaw](err)
		if !ok || flaw.What == "" || flaw.Remedy == "" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(name, "private key") && flaw.What != "the value is a private key" {
			t.Errorf("%s: %v", name, err)
		}
		if len(text) > 40 && strings.Contains(flaw.What+flaw.Remedy, text[len(text)-30:]) {
			t.Errorf("%s is quoted: %v", name, err)
		}
		said[flaw.What]++
	}
	if len(bad) < 20 || len(said) < 20 {
		t.Errorf("%d kinds of wrong keys are told in %d ways", len(bad), len(said))
	}
}

func TestParsePrivateKey(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, long := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(rsa.GenerateKey(rand.Reader, 2048))
	short, p224 := must(rsa.GenerateKey(rand.Reader, 1024)), must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	sec1 := asPEM("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(ec)))
	for name, text := range map[string]string{
		"ed25519":                    asPEM("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(ed))),
		"ecdsa-p256":                 sec1,
		"ecdsa-p256 with parameters": asPEM("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}) + sec1,
		"rsa-2048":                   asPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long)),
	} {
		private, spki, algorithm, err := ParsePrivateKey([]byte(text))
		if err != nil || !strings.HasPrefix(name, algorithm) || MatchKey(private, spki) != nil {
			t.Errorf("%s: %s, %v", name, algorithm, err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "words": "key", "DER": string(must(x509.MarshalPKCS8PrivateKey(ed))),
		"encrypted":     asPEM("ENCRYPTED PRIVATE KEY", []byte{1}),
		"encrypted PEM": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte{1}})),
		"OpenSSH":       asPEM("OPENSSH PRIVATE KEY", []byte{1}), "public": asPEM("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(ed.Public()))),
		"two": sec1 + sec1, "damaged": asPEM("PRIVATE KEY", []byte{0x30, 1}), "cut": sec1[:50],
		"too short": asPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(short)),
		"P-224":     asPEM("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p224))),
	} {
		if _, _, _, err := ParsePrivateKey([]byte(text)); err == nil || hintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func hintOf(err error) string {
	if flaw, ok := errors.AsType[*KeyFlaw](err); ok {
		return flaw.Hint()
	}
	return ""
}

func FuzzParsePublicKey(f *testing.F) {
	good, bad := keyForms()
	for _, forms := range []map[string]string{good, bad} {
		for _, text := range forms {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		spki, algorithm, err := ParsePublicKey(text)
		if err == nil && (len(spki) == 0 || algorithm == "") {
			t.Error("a key without a kind")
		}
	})
}

func FuzzParsePrivateKey(f *testing.F) {
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.Add([]byte(asPEM("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(ec)))))
	f.Add([]byte(asPEM("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(ec)))))
	f.Fuzz(func(t *testing.T, data []byte) {
		private, spki, _, err := ParsePrivateKey(data)
		if err == nil && MatchKey(private, spki) != nil {
			t.Error("the halves don't match")
		}
	})
}
