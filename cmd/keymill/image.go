package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
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
	var o station.WriteOptions
	cmd := &cobra.Command{
		Use:   "write LOT DEVICE -o FILE|-",
		Short: "Write one device's image from golden and pack",
		Long: `Write makes the image of one device, to a file or to standard output. DEVICE is any
of the device's identity values or its serial. Images of lots in format raw are
copied from the lot's images folder: their pack entries are destroyed.

A device's image goes to one unit only, which this makes; --for says whom it is for. A
second one needs ` + "`keymill unit scrap`" + ` first: two units with one key are clones.

` + exitCodesHelp,
		Example: "  keymill image write 2026-W47 00:0a:35:00:00:01 -o device.img\n  keymill image write 2026-W47 SN0001 -o - --for 'line 4' | zstd > device.img.zst",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Output == "" {
				return fault.Usagef("image write needs -o FILE, or -o - for standard output")
			}
			return a.imageWrite(cmd, args[0], args[1], o)
		},
	}
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "file to write, or - for standard output")
	cmd.Flags().StringVar(&o.For, "for", "", "whom the image is for (default: the file)")
	addSettings(cmd, "golden")
	return cmd
}

func (a *app) imageWrite(cmd *cobra.Command, lotName, device string, o station.WriteOptions) error {
	known, err := a.openLot(cmd, lotName)
	if err != nil {
		return err
	}
	defer known.Close()
	rec, err := known.Device(cmd.Context(), device)
	if err != nil {
		return err
	}
	o.Stream = a.out
	unit, err := known.WriteImage(cmd.Context(), rec, o)
	if err != nil {
		return err
	}
	if o.Output != "-" {
		fmt.Fprintf(a.err, "Wrote %s for %s, unit %d. It holds the device's private key.\n", o.Output, rec.Identity, unit.Number)
	}
	return nil
}
