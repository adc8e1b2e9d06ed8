package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/reports"
)

// cosignFlags say who witnesses, and since when.
type cosignFlags struct {
	trust   trustFlags
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
	flags.trust.add(cmd)
	cmd.Flags().StringSliceVar(&flags.trust.since, "since", nil, "the last checkpoint that the witness signed")
	cmd.Flags().StringVar(&flags.name, "name", "", "the witness's name, as a host name and a path")
	cmd.Flags().StringVar(&flags.witness, "witness-key", "", "the witness's private key, PEM; made if it is missing")
	return cmd
}

func (a *app) cosign(cmd *cobra.Command, dir string, flags cosignFlags) error {
	if flags.name == "" || flags.witness == "" {
		return fault.Usagef("audit cosign needs --name and --witness-key")
	}
	trust, err := flags.trust.load()
	if err != nil {
		return err
	}
	report, err := reports.VerifyBundle(cmd.Context(), dir, trust)
	if err != nil {
		return auditFault(cmd.Context(), err)
	}
	if !report.OK() {
		a.printVerified(report)
		return fault.Told(fault.Evidence, "a bundle that does not verify is not cosigned")
	}
	signer, _, err := reports.LoadOrCreateKey(flags.witness)
	if err != nil {
		return fault.StorageOutage(err)
	}
	key, ok := signer.(ed25519.PrivateKey)
	if !ok {
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("the witness's key is not an Ed25519 key"), "Name a file that does not exist: a key is made."))
	}
	checkpoints, err := filepath.Glob(filepath.Join(dir, "log", "*", "checkpoint"))
	if err != nil {
		return err
	}
	for _, name := range checkpoints {
		if err := cosignFile(name, flags.name, key); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.err, "Cosigned %s of %s.\n", say.Count(len(checkpoints), "checkpoint"), dir)
	a.printf("%s\n", reports.WitnessKey(flags.name, key.Public().(ed25519.PublicKey)))
	return nil
}

// cosignFile adds to the cosignatures that a checkpoint has already.
func cosignFile(path, name string, key ed25519.PrivateKey) error {
	cosigned := path + ".cosigned"
	data, err := os.ReadFile(cosigned)
	if errors.Is(err, os.ErrNotExist) {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return fault.StorageOutage(err)
	}
	signed, err := reports.Cosign(data, name, key, time.Now().UTC())
	if err != nil {
		return fault.As(fault.Evidence, err)
	}
	return fault.Disk(files.Write(cosigned, func(w io.Writer) error { _, err := w.Write(signed); return err }))
}
