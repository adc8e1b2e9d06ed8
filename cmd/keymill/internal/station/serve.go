package station

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/imaging"
	"keymill/pipeline"
)

// ServeOptions say where and to whom images are served.
type ServeOptions struct {
	Listen    string // address
	TokenFile string // holds what clients must show; empty: a new token is made
	Cert, Key string // PEM files; empty: plain HTTP
	ClientCA  string // PEM file; clients with a certificate of it need no token
	Plain     bool   // plain HTTP beyond loopback

	Token func(token string) // told the token that was made
	Ready func(url string)   // told when clients are served
}

// ServeImages serves the images of all lots of the ledger until ctx ends.
func ServeImages(ctx context.Context, o Options, s ServeOptions) error {
	cfg, err := o.Settings.For(nil)
	if err != nil {
		return err
	}
	known, err := OpenLedger(ctx, cfg)
	if err != nil {
		return err
	}
	log := logs.New(cfg.Log, o.Hooks.LogTo)
	shelf := NewShelf(cfg, known, log)
	defer shelf.Close()
	tokens, err := s.tokens(o.Settings.Env)
	if err != nil {
		return err
	}
	handler, err := imaging.NewServeHandler(imaging.ServeOptions{Tokens: tokens, Resolve: shelf.Resolve, Begin: shelf.Begin, Log: log})
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	var listener net.ListenConfig
	ln, err := listener.Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	if address, ok := ln.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() && s.Cert == "" && !s.Plain {
		return files.Closing(ln, fault.As(fault.Usage, pipeline.WithHint(errors.New("images hold private keys and would be sent in the clear"),
			"Give --tls-cert and --tls-key, listen on loopback, or say --plain in a network of its own.")))
	}
	return s.serve(ctx, ln, handler)
}

// serve serves until ctx ends, which is no error.
func (o *ServeOptions) serve(ctx context.Context, ln net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	scheme, serve := "http", func() error { return server.Serve(ln) }
	if o.ClientCA != "" {
		pem, err := os.ReadFile(o.ClientCA)
		if err != nil {
			return files.Closing(ln, fault.As(fault.Usage, err))
		}
		server.TLSConfig = &tls.Config{ClientCAs: x509.NewCertPool(), ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
		if !server.TLSConfig.ClientCAs.AppendCertsFromPEM(pem) {
			return files.Closing(ln, fault.Usagef("%s holds no certificate", o.ClientCA))
		}
	}
	if o.Cert != "" {
		scheme, serve = "https", func() error { return server.ServeTLS(ln, o.Cert, o.Key) }
	}
	o.Ready(fmt.Sprintf("%s://%s", scheme, ln.Addr()))
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	select {
	case err := <-ended:
		return fault.As(fault.Usage, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return server.Close()
	}
	return nil
}

// tokens reads who may fetch images: a line has a token, or a client's name and its
// token. Without a file there is one token, which is made now.
func (o *ServeOptions) tokens(env config.Environ) ([]imaging.ServeToken, error) {
	if o.TokenFile == "" {
		secret := make([]byte, 16)
		if _, err := rand.Read(secret); err != nil {
			return nil, err
		}
		token := hex.EncodeToString(secret)
		o.Token(token)
		return []imaging.ServeToken{{Secret: token}}, nil
	}
	if err := env.GuardSecret("--serve-token-file", o.TokenFile); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(o.TokenFile)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	var tokens []imaging.ServeToken
	for line := range strings.Lines(string(data)) {
		switch words := strings.Fields(line); len(words) {
		case 0:
		case 1:
			tokens = append(tokens, imaging.ServeToken{Secret: words[0]})
		case 2:
			tokens = append(tokens, imaging.ServeToken{Name: words[0], Secret: words[1]})
		default:
			return nil, fault.Usagef("--serve-token-file: a line has a token, or a name and a token, not %d words", len(words))
		}
	}
	return tokens, nil
}
