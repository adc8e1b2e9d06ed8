package main

import (
	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/evidence"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/reports"
)

func (a *app) auditProofCmd() *cobra.Command {
	var output, bundle string
	cmd := &cobra.Command{
		Use:   "proof LOT DEVICE -o FILE",
		Short: "Write the proof that one device was released",
		Long: `Proof writes two files that stock tlog-proof tools read: FILE shows that the device's
release is in the lot's log, FILE.head that the lot's head is in the station log,
which witnesses cosign. A time stamp of the station log becomes FILE.tsr. A device
that was released and is undone or rekeyed since gets no proof.`,
		Example: "  keymill audit proof 2026-W47 SN0001 -o SN0001.tlog-proof\n" +
			"  keymill audit proof 2026-W47 SN0001 --bundle audit -o SN0001.tlog-proof",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return fault.Usagef("audit proof needs -o FILE, or -o - for standard output")
			}
			proof, err := evidence.Prove(cmd.Context(), a.options(cmd), args[0], args[1], bundle)
			if err != nil {
				return err
			}
			if output == "-" {
				_, err := a.out.Write(append(proof.Proof, proof.Head...))
				return err
			}
			return evidence.WriteProof(output, proof)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, or - for standard output")
	cmd.Flags().StringVar(&bundle, "bundle", "", "take it from this bundle instead of the ledger")
	addSettings(cmd)
	return cmd
}

func (a *app) auditVerifyDeviceCmd() *cobra.Command {
	var flags evidence.DeviceOptions
	cmd := &cobra.Command{
		Use:   "verify-device --proof FILE --image IMAGE --key FILE",
		Short: "Check one returned unit against the proof of its release",
		Long: `Verify-device checks the proof, compares the key in the unit's image with the recorded
one, and the unit's own identity, where --identity says it, with the proof's. With
--bundle it also says whether the device is still released.

What it cannot tell: a byte copy of an image in another unit has the same key. Only
the identity that the hardware itself shows (--identity, read from the unit) or the
Mender server, which sees two units with one key, can tell the two apart.`,
		Example: "  keymill audit verify-device --proof SN0001.tlog-proof --image returned.img --key station.pem\n" +
			"  keymill audit verify-device --proof SN0001.tlog-proof --image returned.img --identity mac=02:12:61:13:6c:42 --bundle audit --key station.pem",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.Proof == "" {
				return fault.Usagef("audit verify-device needs --proof FILE")
			}
			device, err := evidence.VerifyDevice(cmd.Context(), flags)
			if err != nil {
				return err
			}
			return a.printDevice(device, flags.Image != "")
		},
	}
	addTrust(cmd, &flags.Trust)
	cmd.Flags().StringVar(&flags.Proof, "proof", "", "the device's .tlog-proof file; FILE.head and FILE.tsr beside it are used, too")
	cmd.Flags().StringVar(&flags.Image, "image", "", "the unit's disk image; without it only the proof is checked")
	cmd.Flags().StringVar(&flags.Path, "path", pipeline.DefaultInject()[0].Path, "where in the image the key lies")
	cmd.Flags().StringSliceVar(&flags.Identity, "identity", nil, "what the unit itself says that it is: mac=02:12:61:13:6c:42")
	cmd.Flags().StringVar(&flags.Bundle, "bundle", "", "a newer bundle of the lot, which says how the device stands since")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printDevice(d *reports.Device, withImage bool) error {
	if a.json {
		if err := a.writeJSON(d); err != nil {
			return err
		}
	} else {
		a.tellDevice(d, withImage)
	}
	if !d.OK() {
		return fault.Told(fault.Evidence, "the proof does not hold")
	}
	return nil
}

func (a *app) tellDevice(d *reports.Device, withImage bool) {
	if d.Lot != "" {
		a.printf("Lot %s, row %d, %s, released %s by station %s\n", reports.Printable(d.Lot), d.Row, reports.IdentityText(d.Identity),
			d.Released.Format("2006-01-02 15:04:05 MST"), reports.Printable(d.Station))
	}
	for _, note := range d.Notes {
		a.printf("  note   %s\n", note)
	}
	for _, problem := range d.Problems {
		a.printf("  WRONG  %s\n", problem)
	}
	switch {
	case !d.OK():
		a.printf("The proof does NOT hold.\n")
	case withImage:
		a.printf("The image's key is the recorded one (sha256 %s), and its release is in the log.\n", reports.Printable(d.SPKISHA256))
	default:
		a.printf("The device's release is in the log, with the key sha256 %s. No image was compared.\n", reports.Printable(d.SPKISHA256))
	}
}
