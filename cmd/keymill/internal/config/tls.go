package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
)

// Loopback reports whether a host is this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Trust adds a file's certificates to those that the system trusts.
func Trust(client *http.Client, path string) error {
	pool, err := SystemRootsAnd(path)
	if err != nil {
		return err
	}
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		return errors.New("the HTTP client has a foreign transport")
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return nil
}

// SystemRootsAnd returns the certificates that the system trusts and a file's.
func SystemRootsAnd(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

// ReadSecret reads a secret, unless everybody can.
func ReadSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o004 != 0 {
		return nil, pipeline.WithHint(fmt.Errorf("everybody can read the secret in %s", path), "chmod 600 %s", path)
	}
	return files.ReadShort(path)
}
