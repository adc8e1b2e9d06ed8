package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

// secretsName is the file in Config.Dir that makes a restarted sandbox the same
// server to its clients.
const secretsName = "sandbox.json"

// secrets is that file's content.
type secrets struct {
	Seed        uint64 `json:"seed"`
	CACert      []byte `json:"ca_cert"`      // DER
	CAKey       []byte `json:"ca_key"`       // PKCS#8
	TokenSecret []byte `json:"token_secret"` // HMAC-SHA256 key
}

// certLife is generous, so that a trial which is taken up again after a year
// still finds its CA.
const certLife = 10 * 365 * 24 * time.Hour

func newSecrets(seed uint64) (*secrets, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's CA key: %w", err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "keymill sandbox CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(certLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "keymill sandbox CA"}}, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's CA: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's CA key: %w", err)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	return &secrets{Seed: seed, CACert: cert, CAKey: pkcs8, TokenSecret: secret}, nil
}

// loadSecrets reads the secrets, and makes them when the file is missing.
func loadSecrets(name string, seed uint64) (*secrets, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		kept, err := newSecrets(seed)
		if err != nil {
			return nil, err
		}
		if data, err = json.Marshal(kept); err != nil {
			return nil, fmt.Errorf("the sandbox's secrets: %w", err)
		}
		return kept, writeFile(name, data, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("the sandbox's secrets: %w", err)
	}
	kept := &secrets{}
	if err := json.Unmarshal(data, kept); err != nil {
		return nil, fmt.Errorf("%s is damaged; remove its folder to start afresh: %w", name, err)
	}
	return kept, nil
}

// authority is the sandbox's CA and the server certificate that it signed.
type authority struct {
	caPEM  []byte
	server tls.Certificate
}

// newAuthority makes a server certificate that lives for life, or as long as the
// CA when life is 0. names are added to those of loopback.
func newAuthority(kept *secrets, life time.Duration, names []string) (*authority, error) {
	ca, err := x509.ParseCertificate(kept.CACert)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's CA: %w", err)
	}
	caKey, err := x509.ParsePKCS8PrivateKey(kept.CAKey)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's CA key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's server key: %w", err)
	}
	from, until := time.Now().Add(-time.Hour), ca.NotAfter
	if life != 0 {
		until = time.Now().Add(life)
		from = time.Now().Add(min(life, 0) - time.Hour)
	}
	dns, ips := []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, name)
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "keymill sandbox"},
		NotBefore:    from,
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     dns,
		IPAddresses:  ips,
	}, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's server certificate: %w", err)
	}
	return &authority{
		caPEM:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kept.CACert}),
		server: tls.Certificate{Certificate: [][]byte{cert, kept.CACert}, PrivateKey: key},
	}, nil
}

func (a *authority) serverTLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.server},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
}
