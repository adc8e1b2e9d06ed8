package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
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

// checkResult is the JSON of `check --json`.
type checkResult struct {
	Accepted bool           `json:"accepted"`
	Rows     int            `json:"rows"`
	SHA256   string         `json:"sha256,omitempty"`
	Identity []string       `json:"identity"`
	Columns  []checkColumn  `json:"columns"`
	Problems []checkProblem `json:"problems"`
	Warnings []checkProblem `json:"warnings"`
	// Of each at most maxListed are listed; these count the others.
	ProblemsLeftOut int `json:"problems_left_out,omitempty"`
	WarningsLeftOut int `json:"warnings_left_out,omitempty"`
}

type checkColumn struct {
	Header    string `json:"header"`
	Attribute string `json:"attribute,omitempty"`
	Guessed   bool   `json:"guessed"`
	Identity  bool   `json:"identity"`
	MAC       string `json:"mac,omitempty"` // by its "name" or its "values"; empty: no MAC addresses
	Unique    bool   `json:"unique,omitempty"`
}

type checkProblem struct {
	Row    int    `json:"row,omitempty"`
	Column string `json:"column,omitempty"`
	Cell   string `json:"cell,omitempty"`
	Value  string `json:"value,omitempty"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

func (a *app) check(cmd *cobra.Command, path, lot string) error {
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	known, err := station.OpenKnown(ctx, cfg.Ledger)
	if err != nil {
		return err
	}
	if known != nil {
		defer known.Close()
	}
	if lot == "" {
		lot = files.LotName(path)
	}
	manifest, err := station.OpenManifest(path, cfg, lot, known)
	if err == nil {
		defer manifest.Close()
	}
	if a.json {
		return a.checkJSON(ctx, manifest, err)
	}
	if err != nil {
		return err
	}
	summary, err := manifest.Check(ctx, func(p sources.Problem) { fmt.Fprintln(a.out, p) })
	if err := station.ManifestFault(ctx, summary, err); err != nil {
		return err
	}
	a.printf("%s: %s, %s; accepted.\n", path, say.Count(summary.Rows, "device"), say.Count(summary.Warnings, "warning"))
	for _, c := range summary.Columns {
		a.printf("  column %-24q %s\n", c.Header, columnUse(c))
	}
	return nil
}

func columnUse(c sources.Column) string {
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

// maxListed is how many problems, and how many warnings, `check --json` lists.
const maxListed = 10_000

// add lists a problem, or counts it where there are too many.
func (r *checkResult) add(p sources.Problem) {
	list, left := &r.Problems, &r.ProblemsLeftOut
	if p.Warning {
		list, left = &r.Warnings, &r.WarningsLeftOut
	}
	if len(*list) == maxListed {
		*left++
		return
	}
	*list = append(*list, checkProblem{Row: p.Row, Column: p.Column, Cell: p.Cell, Value: p.Value, What: p.What, Remedy: p.Remedy})
}

// checkJSON checks the manifest, or says why it could not be opened, as one
// object.
func (a *app) checkJSON(ctx context.Context, manifest *sources.Manifest, err error) error {
	result := checkResult{Identity: []string{}, Columns: []checkColumn{}, Problems: []checkProblem{}, Warnings: []checkProblem{}}
	var summary sources.Summary
	opened := err == nil
	if opened {
		summary, err = manifest.Check(ctx, result.add)
		result.Rows, result.SHA256, result.Identity = summary.Rows, summary.SHA256, summary.Identity
		for _, c := range summary.Columns {
			result.Columns = append(result.Columns, checkColumn(c))
		}
	}
	result.Accepted = err == nil
	if err != nil && (!opened || !sources.Refused(err)) {
		result.add(sources.Problem{What: err.Error(), Remedy: fault.Hint(err)})
	}
	if err := a.writeJSON(result); err != nil {
		return err
	}
	if !opened {
		return err
	}
	return station.ManifestFault(ctx, summary, err)
}
