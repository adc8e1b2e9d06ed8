package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/sources"
)

func (a *app) checkCmd() *cobra.Command {
	var lot string
	cmd := &cobra.Command{
		Use:   "check MANIFEST",
		Short: "Validate a manifest; changes nothing",
		Long: `Check reads the whole manifest and lists every problem with row, column, value and
what to do about it. It changes nothing. The ledger, if there is one, is asked for
devices that other lots hold.`,
		Example: "  keymill check manifest.csv\n  keymill check --expect 5000 --json manifest.xlsx",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.check(cmd, args[0], lot)
		},
	}
	cmd.Flags().StringVar(&lot, "lot", "", "name of the lot (default: the manifest's base name)")
	addSettings(cmd, "expect", "sheet")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) check(cmd *cobra.Command, path, lot string) error {
	if lot == "" {
		lot = files.LotName(path)
	}
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	var each func(sources.Problem)
	if !a.json {
		each = func(p sources.Problem) { fmt.Fprintln(a.out, p) }
	}
	result, err := station.CheckManifest(cmd.Context(), cfg, path, lot, each)
	if a.json && result != nil {
		return cmp.Or(a.writeJSON(result), err)
	}
	if err != nil {
		return err
	}
	a.printf("%s: %s, %s; accepted.\n", path, say.Count(result.Rows, "device"), say.Count(result.AllWarnings, "warning"))
	for _, c := range result.Columns {
		a.printf("  column %-24q %s\n", c.Header, columnUse(c))
	}
	return nil
}

func columnUse(c station.CheckColumn) string {
	use := "ignored"
	if c.Attribute != "" {
		use = "is attribute " + c.Attribute
	}
	if c.Identity {
		use += ", part of the identity"
	}
	if c.Unique {
		use += ", unique"
	}
	switch {
	case c.MAC == "values":
		use += ", MAC addresses by its values"
	case c.MAC != "" && c.Attribute != sources.AttrMAC:
		use += ", MAC addresses by its name"
	}
	if c.Guessed && c.Attribute != "" {
		use += " (guessed)"
	}
	return use
}
