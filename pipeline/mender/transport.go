package mender

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"keymill/pipeline"
)

// newTransport keeps connections alive for all that may be in flight: with
// net/http's default of two a host, 64 workers open a new one for every second
// request. A connection is free a moment after its answer is read, so a few more
// than inFlight come to be; closing the surplus would go on for ever.
func newTransport(caFile string, inFlight int) (*http.Transport, error) {
	roots, err := rootCAs(caFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          2 * inFlight,
		MaxIdleConnsPerHost:   2 * inFlight,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		// One HTTP/2 connection carries everything: find out when it is dead.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		TLSClientConfig: &tls.Config{
			RootCAs:            roots,
			MinVersion:         tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(inFlight),
		},
	}, nil
}

// rootCAs returns nil, which means the system's roots, or those and the file's.
func rootCAs(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	data, err := os.ReadFile(caFile)
	if err != nil {
		return nil, pipeline.WithHint(fmt.Errorf("the CA file can't be read: %w", err),
			"server.ca_file names the PEM file of the CA that signed the server's certificate.")
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without a system store still has this file
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, pipeline.WithHint(fmt.Errorf("the CA file %s holds no certificate", caFile),
			"It must hold one or more BEGIN CERTIFICATE blocks.")
	}
	return pool, nil
}
