package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
)

// serveFlags say where and to whom images are served.
type serveFlags struct {
	listen, tokenFile, cert, key string
	plain                        bool
}

func (a *app) imageServeCmd() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve device images over HTTP, with no image on the disk",
		Long: `Serve answers /LOT/DEVICE.img with the device's whole image, made from golden and pack
while it is sent; DEVICE is any identity value or the serial. It understands ranges
and entity tags, so that gang programmers, bmaptool and PXE can resume. Clients show
the token as a bearer token or as the password of basic authentication. Images hold
private keys: beyond loopback it wants a certificate, or --plain.`,
		Example: "  keymill image serve --listen 127.0.0.1:8080 --serve-token-file token\n" +
			"  keymill image serve --listen 10.0.0.5:8443 --tls-cert cert.pem --tls-key key.pem",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.imageServe(cmd, flags)
		},
	}
	cmd.Flags().StringVar(&flags.listen, "listen", "127.0.0.1:0", "address to listen on")
	cmd.Flags().StringVar(&flags.tokenFile, "serve-token-file", "", "file with the token that clients must show (default: a new one, printed)")
	cmd.Flags().StringVar(&flags.cert, "tls-cert", "", "certificate, PEM")
	cmd.Flags().StringVar(&flags.key, "tls-key", "", "its key, PEM")
	cmd.Flags().BoolVar(&flags.plain, "plain", false, "serve keys without TLS beyond loopback: only in a network of its own")
	addSettings(cmd)
	return cmd
}

func (a *app) imageServe(cmd *cobra.Command, flags serveFlags) error {
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	known, err := a.openLedger(cmd)
	if err != nil {
		return err
	}
	shelf := station.NewShelf(cfg, known)
	defer shelf.Close()
	token, err := a.serveToken(flags.tokenFile)
	if err != nil {
		return err
	}
	handler, err := imaging.NewServeHandler(imaging.ServeOptions{Token: token, Resolve: shelf.Resolve, Log: logs.New(cfg.Log, a.err)})
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	var listener net.ListenConfig
	ln, err := listener.Listen(ctx, "tcp", flags.listen)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	if address, ok := ln.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() && flags.cert == "" && !flags.plain {
		return files.Closing(ln, fault.As(fault.Usage, pipeline.WithHint(errors.New("images hold private keys and would be sent in the clear"),
			"Give --tls-cert and --tls-key, listen on loopback, or say --plain in a network of its own.")))
	}
	return a.serveHTTP(ctx, ln, handler, flags)
}

// serveHTTP serves until ctx ends, which is no error.
func (a *app) serveHTTP(ctx context.Context, ln net.Listener, handler http.Handler, flags serveFlags) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	scheme, serve := "http", func() error { return server.Serve(ln) }
	if flags.cert != "" {
		scheme, serve = "https", func() error { return server.ServeTLS(ln, flags.cert, flags.key) }
	}
	a.printf("%s://%s\n", scheme, ln.Addr())
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

func (a *app) serveToken(file string) (string, error) {
	if file == "" {
		secret := make([]byte, 16)
		if _, err := rand.Read(secret); err != nil {
			return "", err
		}
		token := hex.EncodeToString(secret)
		fmt.Fprintf(a.err, "Clients must show the token %s\n", token)
		return token, nil
	}
	if err := a.env.GuardSecret("--serve-token-file", file); err != nil {
		return "", err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fault.As(fault.Usage, err)
	}
	return strings.TrimSpace(string(data)), nil
}
