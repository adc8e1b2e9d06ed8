package main

import (
	"cmp"
	"encoding/csv"
	"encoding/hex"
	"strconv"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
)

func (a *app) imagePlanCmd() *cobra.Command {
	var table bool
	cmd := &cobra.Command{
		Use:   "plan [LOT]",
		Short: "Show what an injection changes in the golden image, and where",
		Long: `Plan shows offsets, lengths and bytes a device: what is constant (write it once into the
master image), and the fields that differ. Without a lot it plans for a key of the
configured algorithm and an invented device; with a lot it shows the lot's own.

With a lot, --table prints the serialization table for gang programmers as CSV: a
line for each device and field, with offset, length and the bytes in hex. It holds
private keys.`,
		Example: "  keymill image plan --golden golden.sdimg\n  keymill image plan 2026-W47 --table > table.csv",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && table {
				return fault.Usagef("--table needs a LOT: it is made of the lot's pack")
			}
			if len(args) == 0 {
				return a.imagePlan(cmd)
			}
			return a.imagePlanOf(cmd, args[0], table)
		},
	}
	cmd.Flags().BoolVar(&table, "table", false, "print the lot's serialization table as CSV; it holds private keys")
	addSettings(cmd, "golden", "partition", "algorithm")
	a.jsonFlag(cmd)
	return cmd
}

// imagePlan plans for an invented device.
func (a *app) imagePlan(cmd *cobra.Command) error {
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	o := a.options(cmd)
	described, err := o.Template(ctx, cfg)
	if err != nil {
		return err
	}
	return a.printDescriptions([]*imaging.Description{described})
}

// imagePlanOf shows what a lot's pack holds.
func (a *app) imagePlanOf(cmd *cobra.Command, name string, table bool) error {
	if !table {
		found, err := station.LotTemplates(cmd.Context(), a.layers(cmd), name, nil)
		if err != nil {
			return err
		}
		return a.printDescriptions(found)
	}
	rows := csv.NewWriter(a.out)
	if err := rows.Write([]string{"identity", "path", "holds", "offset", "length", "hex"}); err != nil {
		return err
	}
	_, err := station.LotTemplates(cmd.Context(), a.layers(cmd), name, func(rec *pipeline.Record, o *imaging.Overlay) error { return writeFields(rows, rec, o) })
	rows.Flush()
	return cmp.Or(err, rows.Error())
}

func writeFields(rows *csv.Writer, rec *pipeline.Record, overlay *imaging.Overlay) error {
	values := overlay.Values()
	for i, field := range overlay.Template.Fields() {
		err := rows.Write([]string{
			rec.Identity.String(), field.Path, field.Holds, strconv.FormatInt(field.Offset, 10),
			strconv.FormatInt(field.Length, 10), hex.EncodeToString(values[i]),
		})
		clear(values[i])
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printDescriptions(list []*imaging.Description) error {
	if a.json {
		return a.writeJSON(list)
	}
	if len(list) == 0 {
		a.printf("The lot's pack holds no overlays.\n")
	}
	for _, d := range list {
		a.printf("Template for golden %s, %s\n", d.GoldenSHA256, say.Bytes(d.GoldenBytes))
		for _, f := range d.Files {
			a.printf("  file      %s, %d to %d bytes\n", f.Path, f.Least, f.Most)
		}
		a.printf("  constant  %d bytes in %d runs\n", d.ConstantBytes, len(d.Constant))
		for _, f := range d.Fields {
			a.printf("  device    offset %12d  length %6d  %-8s %s\n", f.Offset, f.Length, f.Holds, f.Path)
		}
		a.printf("  %d bytes a device\n", d.DeviceBytes)
	}
	return nil
}
