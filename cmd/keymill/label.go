package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/operator"
	"keymill/reports"
)

func (a *app) labelCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "label LOT DEVICE -o FILE",
		Short: "Write one device's label: .zpl, .png, .svg or .pdf",
		Long: `Label writes the label of a device's unit as settings label say, in the format that the
file's name ends in. DEVICE is any of the device's identity values or its serial. A device
without a unit gets the label that its first one would have.

` + exitCodesHelp,
		Example: "  keymill label 2026-W47 SN0001 -o label.png\n  keymill label 2026-W47 SN0001 -o label.zpl",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return fault.Usagef("label needs -o FILE")
			}
			return a.label(cmd, args[0], args[1], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write: .zpl, .png, .svg or .pdf")
	addSettings(cmd)
	return cmd
}

func (a *app) label(cmd *cobra.Command, lot, device, output string) error {
	known, err := a.openLot(cmd, lot)
	if err != nil {
		return err
	}
	defer known.Close()
	labels, err := operator.Labels(known.Config)
	if err != nil {
		return err
	}
	rec, err := known.Device(cmd.Context(), device)
	if err != nil {
		return err
	}
	units, err := known.UnitsOf(cmd.Context(), lot, rec.Row)
	if err != nil {
		return err
	}
	unit := reports.LabelUnit{Lot: lot, Device: &rec.Device, Number: 1}
	for i, u := range units { // the latest one
		unit.Number, unit.Again = u.Number, i > 0
	}
	label, err := labels.Label(unit)
	if err != nil {
		return fault.As(fault.Devices, err)
	}
	var out bytes.Buffer
	if err := label.Write(&out, strings.TrimPrefix(strings.ToLower(filepath.Ext(output)), ".")); err != nil {
		return fault.As(fault.Usage, err)
	}
	if err := os.WriteFile(output, out.Bytes(), 0o644); err != nil {
		return fault.StorageOutage(err)
	}
	fmt.Fprintf(a.err, "Wrote %s. Its code says %q.\n", output, label.Code)
	return nil
}
