package main

import (
	"cmp"
	"encoding/hex"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
)

func (a *app) imageInspectCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect IMAGE [PATH..]",
		Short: "Show an image's partitions and file systems, and what stands at a path",
		Long: `Inspect reads an image without mounting it. Paths are written as in image.inject:
/data/.. on the data partition, partition:2:/etc/.. on another.`,
		Example: "  keymill image inspect golden.sdimg\n  keymill image inspect golden.sdimg /data/mender/mender-agent.pem --json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			golden, closeImage, err := station.OpenImage(cmd.Context(), args[0], cfg.Image.Partition)
			if err != nil {
				return err
			}
			defer closeImage()
			found, err := imaging.Inspect(golden, golden.Size(), imaging.GoldenOptions{Partition: cfg.Image.Partition}, args[1:]...)
			if err != nil {
				return station.ImageFault(cmd.Context(), args[0], err)
			}
			if a.json {
				sum := golden.SHA256()
				return a.writeJSON(struct {
					Path   string `json:"path"`
					SHA256 string `json:"sha256"`
					*imaging.Inspection
				}{golden.Path(), hex.EncodeToString(sum[:]), found})
			}
			a.printInspection(golden, found)
			return nil
		},
	}
	addSettings(cmd, "partition")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printInspection(golden *imaging.Golden, in *imaging.Inspection) {
	a.printf("%s\n  %s, sha256 %x\n  partition table %s, sectors of %d bytes\n",
		golden.Path(), say.Bytes(in.Bytes), golden.SHA256(), in.Table.Kind, in.Table.SectorSize)
	for i, p := range in.Table.Partitions {
		v := in.Volumes[i]
		state := cmp.Or(v.State, "-")
		if v.Free >= 0 {
			state += ", " + say.Bytes(v.Free) + " free"
		}
		if v.Injection != "ok" {
			state += "; no files can be put here: " + v.Injection
		}
		use := ""
		if p.Number == in.Data {
			use = "  <- data partition"
		}
		a.printf("  %3d  at %12d  %10s  %-6s  %-12s  %s%s\n", p.Number, p.Offset, say.Bytes(p.Bytes), cmp.Or(p.FileSystem, "-"),
			cmp.Or(p.FSLabel, p.Label, "-"), state, use)
	}
	if in.Data == 0 {
		a.printf("  no data partition: %s\n", in.DataReason)
	}
	for _, f := range in.Files {
		if !f.Exists {
			a.printf("  %s: nothing is there\n", f.Path)
			continue
		}
		a.printf("  %s: %s, mode %s, owner %d:%d, %d bytes %s\n", f.Path, f.Kind, f.Mode, f.UID, f.GID, f.Bytes, f.Link)
	}
}
