package main

import (
	"context"
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

// checkResult is the JSON of `check --json`.
type checkResult struct {
	Accepted bool           `json:"accepted"`
	Rows     int            `json:"rows"`
	SHA256   string         `json:"sha256,omitempty"`
	Identity []string       `json:"identity"`
	Columns  []checkColumn  `json:"columns"`
	Problems []checkProblem `json:"problems"`
	Warnings []checkProblem `json:"warnings"`
}

type checkColumn struct {
	Header    string `json:"header"`
	Attribute string `json:"attribute,omitempty"`
	Guessed   bool   `json:"guessed"`
	Identity  bool   `json:"identity"`
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
	if err != nil {
		return err
	}
	defer manifest.Close()
	if a.json {
		return a.checkJSON(ctx, manifest)
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
	if c.Guessed && c.Attribute != "" {
		use += " (guessed)"
	}
	return use
}

func (a *app) checkJSON(ctx context.Context, manifest *sources.Manifest) error {
	result := checkResult{Problems: []checkProblem{}, Warnings: []checkProblem{}}
	summary, err := manifest.Check(ctx, func(p sources.Problem) {
		problem := checkProblem{Row: p.Row, Column: p.Column, Cell: p.Cell, Value: p.Value, What: p.What, Remedy: p.Remedy}
		if p.Warning {
			result.Warnings = append(result.Warnings, problem)
		} else {
			result.Problems = append(result.Problems, problem)
		}
	})
	if err != nil && !sources.Refused(err) {
		return station.ManifestFault(ctx, summary, err)
	}
	result.Accepted, result.Rows, result.SHA256, result.Identity = err == nil, summary.Rows, summary.SHA256, summary.Identity
	for _, c := range summary.Columns {
		result.Columns = append(result.Columns, checkColumn(c))
	}
	if err := a.writeJSON(result); err != nil {
		return err
	}
	return station.ManifestFault(ctx, summary, err)
}
