package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
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
	shelf := &shelf{cfg: cfg, ledger: known, lots: map[string]*shelvedLot{}}
	defer shelf.Close()
	token, err := a.serveToken(flags.tokenFile)
	if err != nil {
		return err
	}
	handler, err := imaging.NewServeHandler(imaging.ServeOptions{Token: token, Resolve: shelf.resolve, Log: logs.New(cfg.Log, a.err)})
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

// shelf finds the images of all lots of a ledger. It keeps golden images and
// packs open.
type shelf struct {
	cfg    *config.Config
	ledger *ledger.Ledger

	mu   sync.Mutex
	lots map[string]*shelvedLot // guarded by mu
}

type shelvedLot struct {
	lot    pipeline.Lot
	golden *imaging.Golden
	pack   *imaging.PackReader
}

func (s *shelf) resolve(ctx context.Context, lotName, device string) (imaging.Image, *imaging.Overlay, error) {
	shelved, err := s.lot(ctx, lotName)
	if err != nil {
		return nil, nil, err
	}
	found, err := s.ledger.Find(ctx, lotName, device)
	if err != nil {
		return nil, nil, err
	}
	if len(found) != 1 || found[0].Pack.IsZero() {
		return nil, nil, fmt.Errorf("lot %s, device %q: %w", lotName, device, fs.ErrNotExist)
	}
	key, overlay, err := shelved.pack.Read(imaging.Ref(found[0].Pack))
	if errors.Is(err, imaging.ErrDestroyed) {
		return nil, nil, fmt.Errorf("%w: the image was published, and the pack is not the lot's product (%w)", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if key != found[0].Identity.Sum() {
		return nil, nil, errors.New("the pack entry belongs to another device")
	}
	return shelved.golden, overlay, nil
}

func (s *shelf) lot(ctx context.Context, name string) (*shelvedLot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shelved, ok := s.lots[name]; ok {
		return shelved, nil
	}
	lot, err := s.ledger.Lot(ctx, name)
	if errors.Is(err, ledger.ErrNoLot) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	cfg := *s.cfg
	cfg.Image.Golden = lot.GoldenPath
	golden, err := openLotGolden(ctx, &cfg, lot)
	if err != nil {
		return nil, err
	}
	pack, err := imaging.ReadPack(packPath(lot))
	if err != nil {
		return nil, files.Closing(golden, err)
	}
	s.lots[name] = &shelvedLot{lot, golden, pack}
	return s.lots[name], nil
}

// Close closes what was opened.
func (s *shelf) Close() error {
	errs := []error{s.ledger.Close()}
	for _, shelved := range s.lots {
		errs = append(errs, shelved.pack.Close(), shelved.golden.Close())
	}
	return errors.Join(errs...)
}
