//go:build cgo

package hsm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Bench measures whole cycles of ModeHSM on the token, for each algorithm and
// number of sessions, with as many callers as keep these busy.
func Bench(ctx context.Context, cfg Config, opts BenchOptions) (*BenchReport, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, &RefusedError{Err: err, Hint: "write pkcs11:token=LABEL?module-path=/path/to/module.so"}
	}
	u.PINValue = ""
	r := &BenchReport{Token: u.String()}
	for _, alg := range opts.algorithms() {
		var rows []BenchRow
		for _, sessions := range opts.sessions() {
			cfg.Limits = Limits{Sessions: sessions}
			row, err := benchOne(ctx, cfg, alg, opts.duration())
			if err != nil {
				return nil, err
			}
			row.Algorithm, row.Sessions = alg, sessions
			rows = append(rows, row)
			if row.Problem != "" {
				break
			}
		}
		r.Rows = append(r.Rows, rows...)
		if best := bestRow(rows); best != nil {
			r.Best = append(r.Best, *best)
		}
	}
	return r, nil
}

// benchOne makes keys for as long as told. What the token can't do is the
// row's problem; a token that is gone is an error.
func benchOne(ctx context.Context, cfg Config, alg Algorithm, duration time.Duration) (BenchRow, error) {
	source, err := Open(ctx, ModeHSM, alg, cfg)
	if refusal, ok := errors.AsType[*RefusedError](err); ok {
		return BenchRow{Problem: refusal.Error()}, nil
	}
	if err != nil {
		return BenchRow{}, err
	}
	var (
		made    atomic.Int64
		workers sync.WaitGroup
		once    sync.Once
		failure error
		start   = time.Now()
	)
	for range source.AtOnce() {
		workers.Go(func() {
			for time.Since(start) < duration {
				private, _, err := source.Generate(ctx, "")
				Wipe(private)
				if err != nil {
					once.Do(func() { failure = err })
					return
				}
				made.Add(1)
			}
		})
	}
	workers.Wait()
	row := BenchRow{Keys: int(made.Load()), Duration: time.Since(start)}
	row.KeysPerSecond = float64(row.Keys) / row.Duration.Seconds()
	return row, errors.Join(failure, source.Close())
}
