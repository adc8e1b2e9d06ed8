package main

import (
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
)

func (a *app) imageFlashCmd() *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "flash LOT DEVICE /dev/X",
		Short: "Write one device's image to a block device and read it back",
		Long: `Flash writes a device's image to a card or a disk and compares what the medium gives
back. It refuses disks that are mounted or hold this system, and media with another
device's image (--overwrite takes those). Zeros are written, too; only what the block map
beside the golden image leaves out (golden.img.bmap) is skipped.

A device's image goes to one unit only. What was interrupted goes on with the same
medium; where that is lost, ` + "`keymill unit scrap`" + ` lets the device have another one.

` + exitCodesHelp,
		Example: "  keymill image flash 2026-W47 SN0001 /dev/sdX\n  keymill image flash 2026-W47 SN0002 /dev/mmcblk0 --overwrite",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageFlash(cmd, args[0], args[1], args[2], overwrite)
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "take a medium that holds another device's image")
	addSettings(cmd, "golden")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) imageFlash(cmd *cobra.Command, lotName, device, disk string, overwrite bool) error {
	known, err := a.openLot(cmd, lotName)
	if err != nil {
		return err
	}
	defer known.Close()
	rec, err := known.Device(cmd.Context(), device)
	if err != nil {
		return err
	}
	done, err := known.Flash(cmd.Context(), rec, disk, station.FlashOptions{Overwrite: overwrite, Progress: flashBar(a.err)})
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(done)
	}
	a.printf("Flashed %s to %s: %s written and read back, %s skipped. It is unit %d.\n", rec.Identity, disk, say.Bytes(done.Written), say.Bytes(done.Skipped), done.Unit)
	return nil
}

// flashBar shows a bar on a terminal; elsewhere nothing.
func flashBar(w io.Writer) func(imaging.MediumProgress) {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	var bar *progressbar.ProgressBar
	phase := ""
	return func(p imaging.MediumProgress) {
		if bar == nil || p.Phase != phase {
			phase = p.Phase
			bar = progressbar.DefaultBytes(p.Total, map[string]string{"write": "writing", "compare": "comparing", "key": "the device's own"}[phase])
		}
		bar.Set64(p.Done) //nolint:errcheck // a bar that cannot be drawn stops nothing
	}
}
