package upkeep

import (
	"context"
	"fmt"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Health is the JSON of `ledger check --json`.
type Health struct {
	OK       bool     `json:"ok"`
	Lots     int      `json:"lots"`
	Devices  int      `json:"devices"`
	Events   int      `json:"events"`
	Problems []string `json:"problems"`
}

// Unsound is the fault of a ledger that is not sound.
func Unsound(h Health) error {
	return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("the ledger is not sound: %s", say.Count(len(h.Problems), "problem")),
		"Keep the file as it is for an investigation, and go on with the last backup that is sound."))
}

// Check reads the whole ledger.
func Check(ctx context.Context, known *ledger.Ledger) (Health, error) {
	found, err := known.Check(ctx)
	if err != nil {
		return Health{}, err
	}
	return Health{len(found.Problems) == 0, found.Lots, found.Devices, found.Events, append([]string{}, found.Problems...)}, nil
}
