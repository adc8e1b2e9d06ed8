package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
)

// openManifest opens the manifest as the configuration says. known may be nil:
// then nothing is known of other lots.
func openManifest(path string, cfg *config.Config, lot string, known *ledger.Ledger) (*sources.Manifest, error) {
	var required []string
	if render, err := pipeline.NewRenderer(cfg.Image.Inject); err == nil {
		required = render.Attributes()
	}
	config := sources.Config{
		Columns: cfg.Manifest.Columns, Identity: cfg.Manifest.Identity, Required: required,
		Expect: cfg.Manifest.Expect, Sheet: cfg.Manifest.Sheet,
	}
	if known != nil {
		config.Taken = func(ctx context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error) {
			held, err := known.Taken(ctx, lot, ids)
			if err != nil {
				return nil, err
			}
			taken := make(map[pipeline.IdentitySum]string, len(held))
			for id, holder := range held {
				taken[id] = fmt.Sprintf("lot %s, row %d, %s", holder.Lot, holder.Row, holder.State)
			}
			return taken, nil
		}
	}
	manifest, err := sources.Open(path, config)
	if _, ok := errors.AsType[*pipeline.Outage](err); err != nil && !ok {
		err = fault.As(fault.Manifest, fmt.Errorf("manifest %s: %w", path, err))
	}
	return manifest, err
}

// checkManifest validates the whole manifest and writes every problem to w. An
// error says that the manifest is refused, or that checking was not possible.
//
// At most so many warnings are written, and ten times as many problems: a large
// lot may have one a row.
func checkManifest(ctx context.Context, manifest *sources.Manifest, w io.Writer, warnings int) (sources.Summary, error) {
	problems := math.MaxInt
	if warnings < math.MaxInt/10 {
		problems = 10 * warnings
	}
	left := map[bool]int{true: warnings, false: problems} // by whether it is a warning
	summary, err := manifest.Check(ctx, func(p sources.Problem) {
		if left[p.Warning]--; left[p.Warning] >= 0 {
			fmt.Fprintln(w, p)
		}
	})
	for i, what := range []string{"problem", "warning"} {
		if more := -left[i == 1]; more > 0 {
			fmt.Fprintf(w, "%s more; `keymill check` lists all\n", say.Count(more, what))
		}
	}
	return summary, manifestFault(ctx, summary, err)
}

// fewWarnings is how many warnings of a manifest a run shows.
const fewWarnings = 20

func manifestFault(ctx context.Context, summary sources.Summary, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case sources.Refused(err) && summary.Problems > 0:
		return fault.As(fault.Manifest, pipeline.WithHint(
			fmt.Errorf("manifest refused: %s in %s; nothing was changed", say.Count(summary.Problems, "problem"), say.Count(summary.Rows, "row")),
			"Correct what is listed above and run the same command again."))
	}
	if _, ok := errors.AsType[*pipeline.Outage](err); ok {
		return err
	}
	return fault.As(fault.Manifest, fmt.Errorf("manifest: %w", err))
}

// openKnown opens the ledger if there is one; verbs that change nothing must
// not make it.
func openKnown(ctx context.Context, path string) (*ledger.Ledger, error) {
	if config.IsDatabaseURL(path) {
		return ledger.Open(ctx, path)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return ledger.Open(ctx, path)
}

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
	known, err := openKnown(ctx, cfg.Ledger)
	if err != nil {
		return err
	}
	if known != nil {
		defer known.Close()
	}
	if lot == "" {
		lot = files.LotName(path)
	}
	manifest, err := openManifest(path, cfg, lot, known)
	if err != nil {
		return err
	}
	defer manifest.Close()
	if a.json {
		return a.checkJSON(ctx, manifest)
	}
	summary, err := checkManifest(ctx, manifest, a.out, math.MaxInt)
	if err != nil {
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
		return manifestFault(ctx, summary, err)
	}
	result.Accepted, result.Rows, result.SHA256, result.Identity = err == nil, summary.Rows, summary.SHA256, summary.Identity
	for _, c := range summary.Columns {
		result.Columns = append(result.Columns, checkColumn(c))
	}
	if err := a.writeJSON(result); err != nil {
		return err
	}
	return manifestFault(ctx, summary, err)
}
