package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/hsm/ca"
	"keymill/pipeline"
)

func (a *app) certCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Device certificates: show, revoke, and the revocation list",
		Long: `Devices get X.509 certificates where certificates.ca names a CA and image.inject
has an entry with "content: certificate" or "content: certificate-chain".`,
		Example: "  keymill cert show 2026-W47",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.certShowCmd(), a.certRevokeCmd(), a.certCRLCmd())
	return cmd
}

// certView is a device's certificate, as `cert show --json` lists it.
type certView struct {
	Row       int               `json:"row"`
	Device    pipeline.Identity `json:"device"`
	Serial    string            `json:"serial"`
	SHA256    string            `json:"sha256"`
	NotBefore time.Time         `json:"not_before"`
	NotAfter  time.Time         `json:"not_after"`
	Revoked   *time.Time        `json:"revoked,omitempty"`
	Reason    string            `json:"reason,omitempty"`
}

func viewCert(rec *pipeline.Record) certView {
	view := certView{
		Row: rec.Row, Device: rec.Identity, Serial: rec.Cert.Serial, SHA256: rec.Cert.SHA256,
		NotBefore: rec.Cert.NotBefore, NotAfter: rec.Cert.NotAfter, Reason: rec.Cert.RevokedReason,
	}
	if !rec.Cert.Revoked.IsZero() {
		view.Revoked = &rec.Cert.Revoked
	}
	return view
}

func (a *app) certShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show LOT [DEVICE]",
		Short:   "Show the certificates of a lot's devices, or of one",
		Example: "  keymill cert show 2026-W47 SN-000123",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openLot(cmd, args[0])
			if err != nil {
				return err
			}
			defer view.Close()
			list, err := certsOf(cmd.Context(), view, args[1:])
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(list)
			}
			a.printf("%-6s %-24s %-40s %-10s %s\n", "ROW", "DEVICE", "SERIAL NUMBER", "UNTIL", "REVOKED")
			for _, c := range list {
				revoked := ""
				if c.Revoked != nil {
					revoked = c.Revoked.Format(time.RFC3339) + " " + c.Reason
				}
				a.printf("%-6d %-24q %-40s %-10s %s\n", c.Row, c.Device.Name(), c.Serial, c.NotAfter.Format(time.DateOnly), revoked)
			}
			return nil
		},
	}
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func certsOf(ctx context.Context, view *station.View, device []string) ([]certView, error) {
	list := []certView{}
	if len(device) > 0 {
		rec, err := view.Device(ctx, device[0])
		if err != nil {
			return nil, err
		}
		if rec.Cert.Serial == "" {
			return nil, fault.As(fault.Devices, fmt.Errorf("%s has no certificate", rec.Identity))
		}
		return append(list, viewCert(rec)), nil
	}
	for rec, err := range view.Records(ctx, view.Planned.Name) {
		if err != nil {
			return nil, err
		}
		if rec.Cert.Serial != "" {
			list = append(list, viewCert(rec))
		}
	}
	return list, nil
}

func (a *app) certRevokeCmd() *cobra.Command {
	var reason string
	var names []string
	for _, r := range ca.Reasons() {
		names = append(names, string(r))
	}
	cmd := &cobra.Command{
		Use:   "revoke LOT DEVICE --reason R",
		Short: "Revoke a device's certificate",
		Long: "Revoke records that a device's certificate doesn't hold any more. Servers refuse it once they\n" +
			"have the next revocation list (`keymill cert crl`). `undo` and `retry --rekey` revoke, too.",
		Example: "  keymill cert revoke 2026-W47 SN-000123 --reason key-compromise",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+reason+" ") || reason == "" {
				return fault.Usagef("--reason %q: choose one of %s", reason, strings.Join(names, ", "))
			}
			view, err := a.openLot(cmd, args[0])
			if err != nil {
				return err
			}
			defer view.Close()
			rec, err := view.Revoke(cmd.Context(), args[1], ca.Reason(reason))
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(viewCert(rec))
			}
			a.printf("Revoked certificate %s of %q. Servers learn it from the next `keymill cert crl`.\n", rec.Cert.Serial, rec.Identity.Name())
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why: "+strings.Join(names, ", "))
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) certCRLCmd() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "crl -o FILE",
		Short:   "Write the CA's revocation list",
		Example: "  keymill cert crl -o crl.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return fault.Usagef("name the file with -o")
			}
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			known, err := station.OpenLedger(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer known.Close()
			o := a.options(cmd)
			list, n, err := o.CRL(cmd.Context(), cfg, known, logs.New(cfg.Log, a.err))
			if err != nil {
				return err
			}
			if err := files.Write(path, func(w io.Writer) error { _, err := w.Write(list); return err }); err != nil {
				return fault.StorageOutage(err)
			}
			a.printf("Wrote %s: %s revoked.\n", path, say.Count(n, "certificate"))
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "file to write (PEM)")
	addSettings(cmd)
	return cmd
}
