package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/operator"
	"keymill/cmd/keymill/internal/station"
)

// demoStationConfig is what the demo's bench has: two files in the places of
// media.
const demoStationConfig = `
station:
  slots:
    - {name: "1", file: %q}
    - {name: "2", file: %q}
label: {gtin: "4006381333931"}
`

// demoBench serves the operator's page over the demo's lot: slots are files, and
// the printer is played. Codes are typed where a bench has a scanner.
func (a *app) demoBench(cmd *cobra.Command, o station.Options, dir string) error {
	path := filepath.Join(dir, "station.yaml")
	base, err := os.ReadFile(filepath.Join(dir, config.File))
	if err != nil {
		return fault.StorageOutage(err)
	}
	bench := fmt.Sprintf(demoStationConfig, filepath.Join(dir, "slot-1.img"), filepath.Join(dir, "slot-2.img"))
	if err := os.WriteFile(path, append(base, bench...), 0o600); err != nil {
		return fault.StorageOutage(err)
	}
	printer, err := operator.NewTrialPrinter(cmd.Context(), nil)
	if err != nil {
		return err
	}
	defer printer.Close()
	o.Drain = nil
	o.Settings.File = path
	o.Settings.Flags["label.printer"] = printer.Name()
	b, err := operator.Open(cmd.Context(), o, operator.Settings{Lot: "demo"})
	if fault.KindOf(err) == fault.Usage { // the usual address is taken
		b, err = operator.Open(cmd.Context(), o, operator.Settings{Lot: "demo", Listen: "127.0.0.1:0"})
	}
	if err != nil {
		return err
	}
	defer b.Close()
	a.printf("%s\n", b.Page.URL())
	fmt.Fprintf(a.err, `
Open that page. Where a bench has a scanner, type a code and Enter:
  the serial number of a unit, from %s
  then the code on its label, which is shown here once it is printed
%s/codes has the commands as barcodes. Ctrl-C ends the demo; finished "media" are
%s/*-SN*.img.
`, filepath.Join(dir, "manifest.csv"), b.Page.URL(), dir)
	go a.tellLabels(cmd.Context(), b.Station)
	return b.Run()
}

// tellLabels says what the labels that were printed say.
func (a *app) tellLabels(ctx context.Context, st *operator.Station) {
	told := map[string]bool{}
	for {
		v, changed := st.View()
		for _, slot := range v.Slots {
			if slot.Label != "" && !told[slot.Label] {
				told[slot.Label] = true
				fmt.Fprintf(a.err, "The printer printed the label of %s. Type: %s\n", slot.Device, slot.Label)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
