package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/reports"
)

// cosignFlags say who witnesses, and since when.
type cosignFlags struct {
	trust   evidence.TrustFiles
	name    string
	witness string
}

func (a *app) auditCosignCmd() *cobra.Command {
	var flags cosignFlags
	cmd := &cobra.Command{
		Use:   "cosign DIR --name NAME --witness-key FILE --key FILE",
		Short: "Verify a bundle as a witness and cosign its checkpoints",
		Long: `Cosign is for a witness without a tool of its own. It verifies the bundle, against
the last checkpoint that the witness signed (--since), and adds the witness's
cosignature to each checkpoint. The witness's Ed25519 key is made if it is missing;
its verifier key, which "audit verify --witness" takes, is printed.`,
		Example: "  keymill audit cosign audit --name customer.example/witness --witness-key witness.pem --key station.pem --since last/checkpoint",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cosign(cmd, args[0], flags)
		},
	}
	addTrust(cmd, &flags.trust)
	cmd.Flags().StringSliceVar(&flags.trust.Since, "since", nil, "the last checkpoint that the witness signed")
	cmd.Flags().StringVar(&flags.name, "name", "", "the witness's name, as a host name and a path")
	cmd.Flags().StringVar(&flags.witness, "witness-key", "", "the witness's private key, PEM; made if it is missing")
	return cmd
}

func (a *app) cosign(cmd *cobra.Command, dir string, flags cosignFlags) error {
	if flags.name == "" || flags.witness == "" {
		return fault.Usagef("audit cosign needs --name and --witness-key")
	}
	trust, err := flags.trust.Load()
	if err != nil {
		return err
	}
	report, err := reports.VerifyBundle(cmd.Context(), dir, trust)
	if err != nil {
		return evidence.Unreadable(cmd.Context(), err)
	}
	if !report.OK() {
		a.printVerified(report)
		return fault.Told(fault.Evidence, "a bundle that does not verify is not cosigned")
	}
	n, key, err := evidence.Cosign(dir, flags.name, flags.witness)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.err, "Cosigned %s of %s.\n", say.Count(n, "checkpoint"), dir)
	a.printf("%s\n", key)
	return nil
}
