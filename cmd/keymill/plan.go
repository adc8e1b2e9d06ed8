package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/hsm"
	"keymill/pipeline"
)

func (a *app) planCmd() *cobra.Command {
	var lot string
	cmd := &cobra.Command{
		Use:     "plan MANIFEST",
		Short:   "Dry run: counts, template, disk, server, estimated duration",
		Long:    "Plan does everything that run does before the first change, and shows what run would do.\n\n" + exitCodesHelp,
		Example: "  keymill plan manifest.csv --golden golden.sdimg\n  keymill plan manifest.csv --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lot == "" {
				lot = files.LotName(args[0])
			}
			return a.plan(cmd, args[0], lot)
		},
	}
	cmd.Flags().StringVar(&lot, "lot", "", "name of the lot (default: the manifest's base name)")
	addSettings(cmd, append([]string{"expect", "sheet"}, lineSettings...)...)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) plan(cmd *cobra.Command, path, name string) error {
	result, err := station.EstimateLot(cmd.Context(), a.options(cmd), path, name)
	if err != nil {
		return err
	}
	if a.json {
		if err := a.writeJSON(result); err != nil {
			return err
		}
	} else {
		a.printPlan(result)
	}
	return station.Refusal(result.Concerns)
}

// keySpeed says keyRate in words.
func keySpeed(r station.Estimate) string {
	switch r.Keys {
	case string(hsm.ModeSoftware):
		return fmt.Sprintf("about %.0f a second and core", r.KeyRate)
	case string(hsm.ModeToken):
		return "as fast as the token makes them"
	}
	return fmt.Sprintf("about %.0f a second", r.KeyRate)
}

func (a *app) printPlan(r station.Estimate) {
	verb := "would be planned"
	if r.Resumes {
		verb = "is planned and would be resumed"
	}
	a.printf("Lot %s %s: %d devices, identity %s, %d warnings\n", r.Lot, verb, r.Devices, strings.Join(r.Identity, ", "), r.Warnings)
	if r.Golden != "" {
		a.printf("Golden:   %s\n", r.Golden)
	}
	if r.Data != nil {
		a.printf("Data:     partition %d, as %s\n          %s\n", r.Data.Number, r.Data.Reason, r.Data.Boot)
	}
	switch r.Keys {
	case pipeline.KeysInManifest:
		a.printf("Keys:     made by the devices; the manifest has the public ones, no image is made\n")
	case pipeline.KeysInFiles:
		a.printf("Keys:     in files\n")
	default:
		a.printf("Keys:     %s, %s, %s\n", r.Algorithm, r.Keys, keySpeed(r))
	}
	shared := ""
	if r.Disk.Reflinks {
		shared = " (images share golden's blocks)"
	}
	a.printf("Disk:     %s a device, %s in all, %s free%s\n", say.Bytes(r.Disk.PerDevice), say.Bytes(r.Disk.Total), say.Bytes(r.Disk.Free), shared)
	if r.Disk.Total > r.Disk.Free {
		a.printf("          TOO LITTLE: run would refuse; --format pack takes a few KiB a device\n")
	}
	a.printf("Server:   %s\n", r.Server)
	if r.InventoryRequests > 0 {
		a.printf("Inventory: names, groups and tags take about %d further requests\n", r.InventoryRequests)
	}
	takes := time.Duration(r.Seconds * float64(time.Second))
	for _, c := range r.Concerns {
		if !c.Fatal {
			a.printf("          WARNING: %s\n          %s\n", c.Text, c.Hint)
		}
	}
	a.printf("Duration: about %s, if the server takes 400 devices a second\n", takes.Round(time.Second))
}
