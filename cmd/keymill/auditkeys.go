package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/reports"
)

func (a *app) auditKeysCmd() *cobra.Command {
	var lists []string
	cmd := &cobra.Command{
		Use:   "keys [LOT..]",
		Short: "Look for weak keys in lots: shared, related, malformed, known bad",
		Long: `Keys compares the public keys of all given lots (all lots of the ledger without any):
keys that devices share, RSA moduli that share a prime, small exponents, wrong
sizes, the ROCA structure, and lists of known keys. It ends with 8 if it finds any.`,
		Example: "  keymill audit keys\n  keymill audit keys 2026-W47 --weak-list /usr/share/openssl-blacklist/blacklist.RSA-2048",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.auditKeys(cmd, args, lists)
		},
	}
	cmd.Flags().StringSliceVar(&lists, "weak-list", nil, "list of known keys, in the form of Debian's openssl-blacklist")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) auditKeys(cmd *cobra.Command, lots, lists []string) error {
	known, err := a.openLedger(cmd)
	if err != nil {
		return err
	}
	defer known.Close()
	for _, name := range lots {
		if _, err := station.FindLot(cmd.Context(), known, name); err != nil {
			return err
		}
	}
	if len(lots) == 0 {
		all, err := known.Lots(cmd.Context())
		if err != nil {
			return err
		}
		for _, lot := range all {
			lots = append(lots, lot.Name)
		}
	}
	var readers []io.Reader
	for _, name := range lists {
		file, err := os.Open(name)
		if err != nil {
			return fault.As(fault.Usage, err)
		}
		defer file.Close()
		readers = append(readers, file)
	}
	report, err := reports.AuditKeys(cmd.Context(), known, lots, reports.KeyAuditOptions{WeakKeys: readers})
	if err != nil {
		return err
	}
	if a.json {
		err = a.writeJSON(report)
	} else {
		a.printKeyAudit(report)
	}
	if err == nil && len(report.Findings) > 0 {
		err = fault.Told(fault.Evidence, "%d weak keys", len(report.Findings))
	}
	return err
}

func (a *app) printKeyAudit(r *reports.KeyAudit) {
	a.printf("%d keys of %d lots looked at, %d of them RSA\n", r.Keys, len(r.Lots), r.RSA)
	for _, f := range r.Findings {
		a.printf("  WEAK  %s: %s\n", f.Kind, f.Text)
		for _, o := range f.Owners {
			a.printf("        lot %s, row %d, %s (sha256 %s)\n", o.Lot, o.Row, o.Device, o.Fingerprint)
		}
	}
	if len(r.Findings) == 0 {
		a.printf("No weak key was found.\n")
	}
}
