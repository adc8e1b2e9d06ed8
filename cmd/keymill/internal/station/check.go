package station

import (
	"context"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/sources"
)

// CheckResult is the JSON of `check --json`.
type CheckResult struct {
	Accepted bool           `json:"accepted"`
	Rows     int            `json:"rows"`
	SHA256   string         `json:"sha256,omitempty"`
	Identity []string       `json:"identity"`
	Columns  []CheckColumn  `json:"columns"`
	Problems []CheckProblem `json:"problems"`
	Warnings []CheckProblem `json:"warnings"`
	// Of each at most maxListed are listed; these count the others.
	ProblemsLeftOut int `json:"problems_left_out,omitempty"`
	WarningsLeftOut int `json:"warnings_left_out,omitempty"`
	// AllWarnings counts them all.
	AllWarnings int `json:"-"`
}

// CheckColumn is a column of the manifest.
type CheckColumn struct {
	Header    string `json:"header"`
	Attribute string `json:"attribute,omitempty"`
	Guessed   bool   `json:"guessed"`
	Identity  bool   `json:"identity"`
	MAC       string `json:"mac,omitempty"` // by its "name" or its "values"; empty: no MAC addresses
	Unique    bool   `json:"unique,omitempty"`
}

// CheckProblem is a problem or a warning.
type CheckProblem struct {
	Row    int    `json:"row,omitempty"`
	Column string `json:"column,omitempty"`
	Cell   string `json:"cell,omitempty"`
	Value  string `json:"value,omitempty"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// maxListed is how many problems, and how many warnings, `check --json` lists.
const maxListed = 10_000

// add lists a problem, or counts it where there are too many.
func (r *CheckResult) add(p sources.Problem) {
	list, left := &r.Problems, &r.ProblemsLeftOut
	if p.Warning {
		list, left = &r.Warnings, &r.WarningsLeftOut
	}
	if len(*list) == maxListed {
		*left++
		return
	}
	*list = append(*list, CheckProblem{Row: p.Row, Column: p.Column, Cell: p.Cell, Value: p.Value, What: p.What, Remedy: p.Remedy})
}

// CheckManifest validates a manifest and changes nothing. each is told every
// problem and warning; nil is allowed. The result is nil where the ledger could
// not be asked; else it says also why a manifest is refused.
func CheckManifest(ctx context.Context, cfg *config.Config, path, lot string, each func(sources.Problem)) (*CheckResult, error) {
	known, err := OpenKnown(ctx, cfg.Ledger)
	if err != nil {
		return nil, err
	}
	if known != nil {
		defer known.Close()
	}
	result := &CheckResult{Identity: []string{}, Columns: []CheckColumn{}, Problems: []CheckProblem{}, Warnings: []CheckProblem{}}
	manifest, err := OpenManifest(path, cfg, lot, known)
	if err != nil {
		result.add(sources.Problem{What: err.Error(), Remedy: fault.Hint(err)})
		return result, err
	}
	defer manifest.Close()
	summary, err := manifest.Check(ctx, func(p sources.Problem) {
		result.add(p)
		if each != nil {
			each(p)
		}
	})
	result.Rows, result.SHA256, result.Identity, result.AllWarnings = summary.Rows, summary.SHA256, summary.Identity, summary.Warnings
	for _, c := range summary.Columns {
		result.Columns = append(result.Columns, CheckColumn(c))
	}
	result.Accepted = err == nil
	if err != nil && !sources.Refused(err) {
		result.add(sources.Problem{What: err.Error(), Remedy: fault.Hint(err)})
	}
	return result, ManifestFault(ctx, summary, err)
}
