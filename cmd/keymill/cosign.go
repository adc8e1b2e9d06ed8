package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
)

// cosignFlags say who witnesses, and since when.
type cosignFlags struct {
	trust   evidence.TrustFiles
	witness evidence.Witness
}

func (a *app) auditCosignCmd() *cobra.Command {
	var flags cosignFlags
	cmd := &cobra.Command{
		Use:   "cosign DIR --name NAME --witness-key FILE --key FILE",
		Short: "Verify a bundle as a witness and cosign its checkpoints",
		Long: `Cosign is for a witness without a tool of its own. It verifies the bundle, also
against the last checkpoint of each log that the witness signed, and adds the
witness's cosignature to the heads of the station logs. What it signed is kept in a
file beside its key: it never signs two histories of a log. The witness's Ed25519 key is made if it is missing;
its verifier key, which "audit verify --witness" takes, is printed.`,
		Example: "  keymill audit cosign audit --name customer.example/witness --witness-key witness.pem --key station.pem --since last/checkpoint",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cosign(cmd, args[0], flags)
		},
	}
	addTrust(cmd, &flags.trust)
	cmd.Flags().StringSliceVar(&flags.trust.Since, "since", nil, "a checkpoint that the logs must still contain")
	cmd.Flags().StringVar(&flags.witness.State, "state", "", "file of the checkpoints that the witness signed (default: the key's name with .seen)")
	cmd.Flags().StringVar(&flags.witness.Name, "name", "", "the witness's name, as a host name and a path")
	cmd.Flags().StringVar(&flags.witness.Key, "witness-key", "", "the witness's private key, PEM; made if it is missing")
	return cmd
}

func (a *app) cosign(cmd *cobra.Command, dir string, flags cosignFlags) error {
	if flags.witness.Name == "" || flags.witness.Key == "" {
		return fault.Usagef("audit cosign needs --name and --witness-key")
	}
	trust, err := flags.trust.Load()
	if err != nil {
		return err
	}
	report, n, key, err := evidence.Cosign(cmd.Context(), dir, trust, flags.witness)
	if err != nil {
		return err
	}
	if !report.OK() {
		a.printVerified(report)
		return fault.Told(fault.Evidence, "a bundle that does not verify is not cosigned")
	}
	fmt.Fprintf(a.err, "Cosigned %s of %s.\n", say.Count(n, "checkpoint"), dir)
	a.printf("%s\n", key)
	return nil
}
