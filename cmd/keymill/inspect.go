package main

import (
	"cmp"
	"encoding/hex"

	"github.com/spf13/cobra"

	"keymill/imaging"
)

func (a *app) imageInspectCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect IMAGE",
		Short:   "Show an image's partitions and file systems",
		Example: "  keymill image inspect golden.sdimg\n  keymill image inspect golden.sdimg --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			golden, err := imaging.OpenGolden(cmd.Context(), args[0], imaging.GoldenOptions{
				CacheDir: goldenCache(cfg.Ledger), Partition: cfg.Image.Partition,
			})
			if err != nil {
				return imageFault(cmd.Context(), args[0], err)
			}
			defer golden.Close()
			return a.inspect(golden)
		},
	}
	addSettings(cmd, "partition")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) inspect(golden *imaging.Golden) error {
	sum, table := golden.SHA256(), golden.Table()
	data, dataErr := golden.Data()
	if a.json {
		result := struct {
			Path   string         `json:"path"`
			Bytes  int64          `json:"bytes"`
			SHA256 string         `json:"sha256"`
			Table  *imaging.Table `json:"table"`
			Data   int            `json:"data_partition,omitempty"`
		}{golden.Path(), golden.Size(), hex.EncodeToString(sum[:]), table, 0}
		if dataErr == nil {
			result.Data = data.Number
		}
		return a.writeJSON(result)
	}
	a.printf("%s\n  %s, sha256 %x\n  partition table %s, sectors of %d bytes\n", golden.Path(), byteSize(golden.Size()), sum, table.Kind, table.SectorSize)
	for _, p := range table.Partitions {
		use := ""
		if dataErr == nil && p.Number == data.Number {
			use = "  <- data partition"
		}
		a.printf("  %3d  at %12d  %10s  %-6s  %s%s\n", p.Number, p.Offset, byteSize(p.Bytes), p.FileSystem, cmp.Or(p.FSLabel, p.Label, "-"), use)
	}
	if dataErr != nil {
		a.printf("  no data partition: %v\n", dataErr)
	}
	return nil
}
