// Package upkeep does for the ledger what a timer asks for: check, back up,
// destroy what is done with.
package upkeep

import (
	"context"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline/ledger"
)

// Done is the JSON of `ledger upkeep --json`.
type Done struct {
	Health Health    `json:"health"`
	Backup *copied   `json:"backup,omitempty"` // nil where none is configured
	Pruned []Remains `json:"pruned"`
}

// Run returns what it did, up to the error.
func Run(ctx context.Context, o station.Options, cfg *config.Config, known *ledger.Ledger, dry bool) (done Done, err error) {
	done.Pruned = []Remains{}
	if done.Health, err = Check(ctx, known); err != nil {
		return done, err
	}
	if !done.Health.OK {
		return done, Unsound(done.Health)
	}
	if cfg.Backup.Folder != "" {
		copies := newCopies(cfg)
		if done.Backup, err = copies.add(ctx, known, time.Now(), dry); err != nil {
			return done, err
		}
	}
	rule, err := Retention(cfg, cfg.Retention.Accepted)
	if err != nil || rule == (Rule{}) {
		return done, err
	}
	done.Pruned, err = Prune(ctx, o, cfg, known, rule, !dry)
	return done, err
}
