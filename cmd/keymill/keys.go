package main

import (
	"context"
	"errors"
	"log/slog"

	"keymill/hsm"
	"keymill/pipeline"
)

// keySource is where the job's keys come from.
type keySource interface {
	pipeline.Keys
	Origin() hsm.Origin
	Close() error
}

// stationKeys tells the pipeline when the HSM itself is gone.
type stationKeys struct{ hsm.Source }

func (s stationKeys) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	private, public, err = s.Source.Generate(ctx, label)
	if err != nil && hsmFault(err) {
		err = &pipeline.Outage{Part: pipeline.PartHSM, Err: err, Hint: hsm.Hint(err)}
	}
	return private, public, err
}

// openKeys opens the configured source of keys, and never another one.
func openKeys(_ context.Context, cfg *Config, _ *slog.Logger) (keySource, error) {
	algorithm, err := hsm.ParseAlgorithm(cfg.Keys.Algorithm)
	if err != nil {
		return nil, withCode(exitUsage, err)
	}
	if cfg.Keys.Source != "software" {
		return nil, withCode(exitHSM, pipeline.WithHint(errors.New("this build makes keys in software only"), "Use --keys software."))
	}
	source, err := hsm.Software(algorithm)
	if err != nil {
		return nil, withCode(exitHSM, err)
	}
	return stationKeys{source}, nil
}
