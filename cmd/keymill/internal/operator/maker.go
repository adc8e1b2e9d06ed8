package operator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
)

// lineMaker makes keys at the scan by the line that a run uses, one device at a
// time. The image may be written as soon as the device is staged, while the line
// still talks to the server.
type lineMaker struct {
	lot *station.Lot

	mu   sync.Mutex
	runs map[int]*lineRun // by row
}

// lineRun is one device on the line.
type lineRun struct {
	ended chan struct{}
	err   error // valid once ended is closed
}

// makerPoll is how often the ledger is asked whether a device is staged.
const makerPoll = 20 * time.Millisecond

// makerPatience is how long a release waits before the unit is shown as held.
const makerPatience = 3 * time.Second

// begin puts the device on the line unless it is there. The line works on a copy,
// as it changes the record that it carries.
func (m *lineMaker) begin(ctx context.Context, rec *pipeline.Record) *lineRun {
	m.mu.Lock()
	defer m.mu.Unlock()
	if run := m.runs[rec.Row]; run != nil {
		return run
	}
	run := &lineRun{ended: make(chan struct{})}
	m.runs[rec.Row] = run
	carried := *rec
	go func() { // ends with ctx
		defer close(run.ended)
		run.err = m.lot.One(ctx, &carried)
	}()
	return run
}

func (m *lineMaker) forget(row int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.runs, row)
}

func (m *lineMaker) record(ctx context.Context, rec *pipeline.Record) (*pipeline.Record, error) {
	return m.lot.Ledger.Record(ctx, m.lot.Name, rec.Identity.Sum())
}

func (m *lineMaker) Stage(ctx context.Context, rec *pipeline.Record) (*pipeline.Record, error) {
	run := m.begin(ctx, rec)
	for {
		over := false
		select {
		case <-run.ended:
			over = true
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(makerPoll):
		}
		now, err := m.record(ctx, rec)
		switch {
		case err != nil:
			return nil, err
		case now.State == pipeline.Staged || now.State == pipeline.Preauthorized || now.State == pipeline.Released:
			return now, nil
		case over:
			m.forget(rec.Row)
			if run.err != nil {
				return nil, run.err
			}
			return nil, m.refused(now)
		}
	}
}

// refused says why a device did not get through.
func (m *lineMaker) refused(rec *pipeline.Record) error {
	if rec.Reason != "" {
		return errors.New(rec.Reason)
	}
	return fmt.Errorf("the device is %s", rec.State)
}

func (m *lineMaker) Release(ctx context.Context, rec *pipeline.Record) (*pipeline.Record, error) {
	now, err := m.record(ctx, rec)
	if err != nil {
		return nil, err
	}
	if now.State == pipeline.Released {
		m.forget(rec.Row)
		return now, nil
	}
	run := m.begin(ctx, now)
	timer := time.NewTimer(makerPatience)
	defer timer.Stop()
	select {
	case <-run.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, &pipeline.Outage{Part: pipeline.PartServer, Err: errors.New("the server has not answered yet")}
	}
	m.forget(rec.Row)
	if run.err != nil {
		return nil, run.err
	}
	if now, err = m.record(ctx, rec); err != nil {
		return nil, err
	}
	if now.State != pipeline.Released {
		return nil, m.refused(now)
	}
	return now, nil
}
