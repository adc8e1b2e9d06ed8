package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
)

func (a *app) imageCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Look at images, and write single ones",
		Example: "  keymill image write 2026-W47 SN0001 -o device.img\n  keymill image inspect device.img",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imagePlanCmd(), a.imageWriteCmd(), a.imageServeCmd(), a.imageFlashCmd(), a.imageInspectCmd())
	return cmd
}

func (a *app) imageWriteCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "write LOT DEVICE -o FILE|-",
		Short: "Write one device's image from golden and pack",
		Long: `Write makes the image of one device, to a file or to standard output. DEVICE is any
of the device's identity values or its serial. Images of lots in format raw are
copied from the lot's images folder: their pack entries are destroyed.

` + exitCodesHelp,
		Example: "  keymill image write 2026-W47 00:0a:35:00:00:01 -o device.img\n  keymill image write 2026-W47 SN0001 -o - | zstd > device.img.zst",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return fault.Usagef("image write needs -o FILE, or -o - for standard output")
			}
			return a.imageWrite(cmd, args[0], args[1], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, or - for standard output")
	addSettings(cmd, "golden")
	return cmd
}

func (a *app) imageWrite(cmd *cobra.Command, lotName, device, output string) error {
	known, err := a.openLot(cmd, lotName)
	if err != nil {
		return err
	}
	defer known.Close()
	rec, err := known.Device(cmd.Context(), device)
	if err != nil {
		return err
	}
	golden, err := station.OpenGolden(cmd.Context(), known.Config, known.Planned)
	if err != nil {
		return err
	}
	defer golden.Close()
	if output != "-" {
		if err := imaging.CheckOutput(output, station.Kept(known.Config, known.Planned, golden)...); err != nil {
			return fault.As(fault.Usage, err)
		}
	}
	image, err := station.DeviceImage(cmd.Context(), golden, known.Planned, rec)
	if err != nil {
		return err
	}
	defer image.Close()
	if output == "-" {
		return fault.Disk(image.Stream(cmd.Context(), a.out))
	}
	if err := image.Write(cmd.Context(), output); err != nil {
		return fault.StorageOutage(err)
	}
	fmt.Fprintf(a.err, "Wrote %s for %s. It holds the device's private key.\n", output, rec.Identity)
	return nil
}
