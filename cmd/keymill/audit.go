package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
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
	cmd.AddCommand(a.auditKeyCmd(), a.auditVerifyCmd(), a.auditProofCmd(), a.auditVerifyDeviceCmd(), a.auditCosignCmd(), a.auditKeysCmd())
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
the hash of every file, the transparency log, and that its events lead to exactly
the listed devices. It ends with 0 if the bundle is valid and 8 if not, and says
what exactly is wrong.`,
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
		a.printf("Lot %s of station %s: %d devices, %d events, %d files\n", r.Lot, r.Station, r.Devices, r.Events, r.Files)
	}
	for _, check := range r.Checks {
		a.printf("  ok     %s\n", check)
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

func (a *app) auditProofCmd() *cobra.Command {
	var output, bundle string
	cmd := &cobra.Command{
		Use:   "proof LOT DEVICE -o FILE",
		Short: "Write the proof that one device is in the transparency log",
		Example: "  keymill audit proof 2026-W47 SN0001 -o SN0001.tlog-proof\n" +
			"  keymill audit proof 2026-W47 SN0001 --bundle audit -o SN0001.tlog-proof",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return fault.Usagef("audit proof needs -o FILE, or -o - for standard output")
			}
			proof, err := a.prove(cmd, args[0], args[1], bundle)
			if err != nil {
				return err
			}
			if output == "-" {
				_, err := a.out.Write(proof.Marshal())
				return err
			}
			return fault.Disk(files.Write(output, func(w io.Writer) error { _, err := w.Write(proof.Marshal()); return err }))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, or - for standard output")
	cmd.Flags().StringVar(&bundle, "bundle", "", "take it from this bundle instead of the ledger")
	addSettings(cmd)
	return cmd
}

func (a *app) prove(cmd *cobra.Command, lot, device, bundle string) (*reports.Proof, error) {
	if bundle != "" {
		return evidence.ProveFromBundle(cmd.Context(), bundle, device)
	}
	return evidence.ProveFromLedger(cmd.Context(), a.options(cmd), lot, device)
}

func (a *app) auditVerifyDeviceCmd() *cobra.Command {
	var flags evidence.TrustFiles
	var proof, image, path string
	cmd := &cobra.Command{
		Use:     "verify-device --proof FILE --image IMAGE --key FILE",
		Short:   "Check one returned unit: is its image's key the recorded one, and was it in the log",
		Example: "  keymill audit verify-device --proof SN0001.tlog-proof --image returned.img --key station.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if proof == "" {
				return fault.Usagef("audit verify-device needs --proof FILE")
			}
			trust, err := flags.Load()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(proof)
			if err != nil {
				return fault.As(fault.Usage, err)
			}
			spki, err := evidence.KeyOfImage(cmd.Context(), image, path)
			if err != nil {
				return evidence.Unreadable(cmd.Context(), err)
			}
			device, err := reports.VerifyUnit(cmd.Context(), &reports.DeviceProof{Proof: data}, reports.Unit{SPKI: spki}, trust)
			if err != nil {
				return evidence.Unreadable(cmd.Context(), err)
			}
			return a.printDevice(device, image != "")
		},
	}
	addTrust(cmd, &flags)
	cmd.Flags().StringVar(&proof, "proof", "", "the device's .tlog-proof file")
	cmd.Flags().StringVar(&image, "image", "", "the unit's disk image; without it only the proof is checked")
	cmd.Flags().StringVar(&path, "path", pipeline.DefaultInject()[0].Path, "where in the image the key lies")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printDevice(d *reports.Device, withImage bool) error {
	if a.json {
		if err := a.writeJSON(d); err != nil {
			return err
		}
	} else {
		a.printf("Lot %s, row %d, %v, released %s by station %s\n", d.Lot, d.Row, d.Identity, d.Released.Format("2006-01-02 15:04:05 MST"), d.Station)
		for _, problem := range d.Problems {
			a.printf("  WRONG  %s\n", problem)
		}
		switch {
		case !d.OK():
			a.printf("The proof does NOT hold.\n")
		case withImage:
			a.printf("The image's key is the recorded one (sha256 %s), and it is in the log.\n", d.SPKISHA256)
		default:
			a.printf("The device is in the log with the key sha256 %s. No image was compared.\n", d.SPKISHA256)
		}
	}
	if !d.OK() {
		return fault.Told(fault.Evidence, "the proof does not hold")
	}
	return nil
}
