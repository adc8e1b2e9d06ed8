package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/fault"
	"keymill/reports"
)

func (a *app) auditCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "For the auditor: keys, bundles and proofs, checked offline",
		Example: "  keymill audit key > station.pem\n  keymill audit verify audit --key station.pem",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.auditKeyCmd(), a.auditVerifyCmd(), a.auditProofCmd(), a.auditVerifyDeviceCmd(), a.auditCosignCmd(), a.auditRotateCmd(), a.auditRestartCmd(), a.auditKeysCmd())
	return cmd
}

func (a *app) auditKeyCmd() *cobra.Command {
	var vkey bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the station's public signing key",
		Long: `Key prints the public half of the key that signs this station's evidence, as PEM.
Give it to the auditor before the first lot, by a way that the factory does not control.`,
		Example: "  keymill audit key > station.pem\n  keymill audit key --vkey",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			key, err := a.signer(cmd, cfg)
			if err != nil {
				return err
			}
			defer key.Close()
			if vkey {
				text, err := reports.VerifierKey(cfg.Audit.Station, key.Public())
				if err == nil {
					a.printf("%s\n", text)
				}
				return err
			}
			pem, err := reports.PublicPEM(key.Public())
			if err == nil {
				a.printf("%s", pem)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&vkey, "vkey", false, "print it as a verifier key of C2SP signed notes")
	addSettings(cmd)
	return cmd
}

// addTrust declares the flags of what an auditor brings along.
func addTrust(cmd *cobra.Command, t *evidence.TrustFiles) {
	cmd.Flags().StringSliceVar(&t.Keys, "key", nil, "file with a public key to trust (PEM or verifier key); from outside the bundle")
	cmd.Flags().StringSliceVar(&t.Witnesses, "witness", nil, "file with a witness's verifier key, which must have cosigned")
	cmd.Flags().StringSliceVar(&t.Authorities, "tsa-root", nil, "PEM file with the root of an RFC 3161 authority, which must have stamped")
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var flags evidence.TrustFiles
	cmd := &cobra.Command{
		Use:   "verify DIR --key FILE",
		Short: "Verify an audit bundle, offline",
		Long: `Verify checks a bundle with nothing but public keys: the signature of the statement,
the hash of every file, that the logs are whole and contain every head that was
signed, that their events lead to exactly the listed devices, and that whatever is
said twice agrees, tables and pages included. What it did not or cannot check it
says under "note": above all, a bundle alone cannot show that the station has not
made its whole history anew, or what it never wrote down. Earlier checkpoints
(--since), witnesses and time stamps are against that. It ends with 0 if the bundle
is valid and 8 if not, and says what exactly is wrong.`,
		Example: "  keymill audit verify audit --key station.pem\n  keymill audit verify audit --key station.pem --since last/checkpoint --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			trust, err := flags.Load()
			if err != nil {
				return err
			}
			report, err := reports.VerifyBundle(cmd.Context(), args[0], trust)
			if err != nil {
				return evidence.Unreadable(cmd.Context(), err)
			}
			if a.json {
				err = a.writeJSON(report)
			} else {
				a.printVerified(report)
			}
			if err == nil && !report.OK() {
				err = fault.Told(fault.Evidence, "the evidence does not verify")
			}
			return err
		},
	}
	addTrust(cmd, &flags)
	cmd.Flags().StringSliceVar(&flags.Since, "since", nil, "checkpoint of an earlier export, which the log must still contain")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printVerified(r *reports.Report) {
	if r.Lot != "" {
		a.printf("Lot %s of station %s: %d devices, %d events, %d files\n", reports.Printable(r.Lot), reports.Printable(r.Station), r.Devices, r.Events, r.Files)
	}
	for _, check := range r.Checks {
		a.printf("  ok     %s\n", check)
	}
	for _, l := range r.Lots {
		if l.Lot != r.Lot {
			a.printf("  note   the station's log also has lot %s at station %s, %d events as of %s: is its bundle at hand?\n",
				reports.Printable(l.Lot), reports.Printable(l.Station), l.Events, l.Time.Format("2006-01-02 15:04:05"))
		}
	}
	for _, note := range r.Notes {
		a.printf("  note   %s\n", note)
	}
	for _, problem := range r.Problems {
		a.printf("  WRONG  %s\n", problem)
	}
	if r.OK() {
		a.printf("The evidence is valid.\n")
	} else {
		a.printf("The evidence is NOT valid.\n")
	}
}
