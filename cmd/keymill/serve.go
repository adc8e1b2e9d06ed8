package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/station"
)

func (a *app) imageServeCmd() *cobra.Command {
	var flags station.ServeOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve device images over HTTP, with no image on the disk",
		Long: `Serve answers /LOT/DEVICE.img with the device's whole image, made from golden and pack
while it is sent; DEVICE is any identity value or the serial. It understands ranges
and entity tags, so that gang programmers, bmaptool and PXE can resume. Clients show
a token as a bearer token or as the password of basic authentication, or a certificate of
--tls-client-ca. Images hold private keys: beyond loopback it wants a certificate, or --plain.

The first request for a device's own bytes binds the device to that client, which may
go on with ranges; another client gets 409, and so does everybody once all was sent
(` + "`keymill unit list`" + `). The token file has a token, or lines of NAME and TOKEN, one for
each client; clients with one token in common are told apart by their addresses.`,
		Example: "  keymill image serve --listen 127.0.0.1:8080 --serve-token-file token\n" +
			"  keymill image serve --listen 10.0.0.5:8443 --tls-cert cert.pem --tls-key key.pem",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.imageServe(cmd, flags)
		},
	}
	cmd.Flags().StringVar(&flags.Listen, "listen", "127.0.0.1:0", "address to listen on")
	cmd.Flags().StringVar(&flags.TokenFile, "serve-token-file", "", "file with the token that clients must show (default: a new one, printed)")
	cmd.Flags().StringVar(&flags.Cert, "tls-cert", "", "certificate, PEM")
	cmd.Flags().StringVar(&flags.Key, "tls-key", "", "its key, PEM")
	cmd.Flags().StringVar(&flags.ClientCA, "tls-client-ca", "", "certificates, PEM, that sign those of clients who need no token")
	cmd.Flags().BoolVar(&flags.Plain, "plain", false, "serve keys without TLS beyond loopback: only in a network of its own")
	addSettings(cmd)
	return cmd
}

func (a *app) imageServe(cmd *cobra.Command, flags station.ServeOptions) error {
	flags.Token = func(token string) { fmt.Fprintf(a.err, "Clients must show the token %s\n", token) }
	flags.Ready = func(url string) { a.printf("%s\n", url) }
	return station.ServeImages(cmd.Context(), a.options(cmd), flags)
}
