package main

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
)

func (a *app) imageFlashCmd() *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use:   "flash LOT DEVICE /dev/X",
		Short: "Write one device's image to a block device and read it back",
		Long: `Flash writes a device's image to a card or a disk and compares what the medium gives
back. It refuses disks that are mounted or hold this system. Zeros are written, too;
only what the block map beside the golden image leaves out (golden.img.bmap) is
skipped. A device that was flashed before needs --again: a key in two units is a clone.

` + exitCodesHelp,
		Example: "  keymill image flash 2026-W47 SN0001 /dev/sdX\n  keymill image flash 2026-W47 SN0001 /dev/mmcblk0 --again",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageFlash(cmd, args[0], args[1], args[2], again)
		},
	}
	cmd.Flags().BoolVar(&again, "again", false, "flash a device that was flashed before")
	addSettings(cmd, "golden")
	a.jsonFlag(cmd)
	return cmd
}

// flashResult is the JSON of `image flash --json`.
type flashResult struct {
	Device  pipeline.Identity `json:"device"`
	Disk    string            `json:"disk"`
	Written int64             `json:"bytes_written"`
	Skipped int64             `json:"bytes_skipped"`
}

func (a *app) imageFlash(cmd *cobra.Command, lotName, device, disk string, again bool) error {
	ctx := cmd.Context()
	known, err := a.openLot(cmd, lotName)
	if err != nil {
		return err
	}
	defer known.Close()
	lot, cfg := known.Planned, known.Config
	rec, err := known.Device(ctx, device)
	if err != nil {
		return err
	}
	before, err := station.FlashedBefore(ctx, known.Ledger, rec)
	if err != nil {
		return err
	}
	if before != "" && !again {
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s was flashed before, %s", rec.Identity, before),
			"Two units with one key are clones. If the first one was scrapped, say --again."))
	}
	golden, err := station.OpenGolden(ctx, cfg, lot)
	if err != nil {
		return err
	}
	defer golden.Close()
	image, err := station.DeviceImage(ctx, golden, lot, rec)
	if err != nil {
		return err
	}
	defer image.Close()
	if image.Overlay == nil {
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("lot %s is not in format pack: its images are files", lot.Name),
			"Write the file with your tool, or plan lots that are flashed here with --format pack."))
	}
	result, err := imaging.Flash(ctx, disk, golden, image.Overlay, imaging.FlashOptions{Progress: flashBar(a.err)})
	if err != nil {
		return station.ImageFault(ctx, disk, err)
	}
	changes := pipeline.Transitions{Ledger: known, Station: cfg.Audit.Station}
	_, err = known.Append(ctx, changes.Flashed(rec, station.Facts(map[string]string{"disk": disk, "operator": cfg.Audit.Operator})))
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(flashResult{rec.Identity, disk, result.Written, result.Skipped})
	}
	a.printf("Flashed %s to %s: %s written and read back, %s skipped.\n", rec.Identity, disk, say.Bytes(result.Written), say.Bytes(result.Skipped))
	return nil
}

// flashBar shows a bar on a terminal; elsewhere nothing.
func flashBar(w io.Writer) func(verify bool, done, total int64) {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	var bar *progressbar.ProgressBar
	verifying := false
	return func(verify bool, done, total int64) {
		if bar == nil || verify != verifying {
			verifying = verify
			bar = progressbar.DefaultBytes(total, map[bool]string{false: "writing", true: "comparing"}[verify])
		}
		bar.Set64(done) //nolint:errcheck // a bar that cannot be drawn stops nothing
	}
}
