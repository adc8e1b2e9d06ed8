package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"keymill/pipeline"
)

// chunkWorker does River's jobs.
type chunkWorker struct {
	river.WorkerDefaults[Chunk]
	w *Worker
}

// refusedAgain is how long a chunk waits that this station can't work on.
const refusedAgain = 15 * time.Second

// Work claims the chunk's devices and carries them. What is not done after
// Times.Job is enqueued again under the next generation.
func (c *chunkWorker) Work(ctx context.Context, job *river.Job[Chunk]) error {
	w, chunk := c.w, job.Args
	defer w.begin(chunk.Lot)()
	lot, carried, err := w.find(ctx, chunk.Lot)
	if err != nil {
		return err
	}
	if carried == nil {
		if lot == nil {
			return nil // closed or undone meanwhile: nothing is left to do
		}
		return river.JobSnooze(refusedAgain)
	}
	lease := fmt.Sprintf("%s/%s/%d.%d", w.Station, w.Process, job.ID, job.Attempt)
	h := newHold(sinceBoot, w.Times.Lease)
	var records []*pipeline.Record
	err = h.extend(func() (err error) {
		records, err = w.Ledger.Claim(ctx, chunk.Lot, chunk.First, chunk.Last, lease, w.Times.Lease)
		return err
	})
	if err != nil || len(records) == 0 {
		return err
	}
	err = w.carry(ctx, chunk, carried, lease, h, records)
	if outage, ok := errors.AsType[*pipeline.Outage](err); ok {
		w.stop(outage)
	}
	return err
}

// find returns the lot of a chunk, nil if it is not open any more, and the lot
// at this station, nil if it can't work on it.
func (w *Worker) find(ctx context.Context, name string) (*pipeline.Lot, Carried, error) {
	lots, err := w.queued(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i := range lots {
		if lots[i].Name != name {
			continue
		}
		carried, err := w.lot(ctx, lots[i])
		if _, ok := errors.AsType[*RefusedError](err); ok {
			return &lots[i], nil, nil
		}
		return &lots[i], carried, err
	}
	return nil, nil, nil
}

// carry works the claimed records under a lease that is renewed meanwhile, and
// gives it back.
func (w *Worker) carry(ctx context.Context, chunk Chunk, carried Carried, lease string, h *hold, records []*pipeline.Record) error {
	working, end := context.WithTimeout(ctx, w.Times.Job)
	defer end()
	keeping, stopKeeping := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() {
		h.keep(keeping, w.Times.Renew, func(ctx context.Context) (int, error) {
			return w.Ledger.Renew(ctx, chunk.Lot, chunk.First, chunk.Last, lease, w.Times.Lease)
		})
	})
	err := carried.CarryHeld(working, each(records), h)
	stopKeeping()
	keeper.Wait()
	after := context.WithoutCancel(ctx)
	if yieldErr := w.Ledger.Yield(after, chunk.Lot, chunk.First, chunk.Last, lease); err == nil {
		err = yieldErr
	}
	if working.Err() != nil && ctx.Err() == nil {
		return w.rest(after, chunk)
	}
	return err
}

// rest enqueues a chunk again whose time was up.
func (w *Worker) rest(ctx context.Context, chunk Chunk) error {
	chunk.Generation++
	_, err := w.client.Insert(ctx, chunk, nil)
	return err
}

// each yields the claimed records that are to be worked on. Failed devices and
// conflicts are left: somebody has to ask for these again.
func each(records []*pipeline.Record) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		for _, r := range records {
			if r.State != pipeline.Failed && r.State != pipeline.Conflicted && !yield(r, nil) {
				return
			}
		}
	}
}
