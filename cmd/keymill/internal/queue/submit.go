package queue

import (
	"context"
	"fmt"

	"github.com/riverqueue/river"
)

// submitBatch is how many chunks are enqueued in one statement.
const submitBatch = 1000

// Submitted says what Submit enqueued.
type Submitted struct {
	Lot     string `json:"lot"`
	Devices int    `json:"devices"`
	Chunks  int    `json:"chunks"`
	Already int    `json:"already"` // chunks that were enqueued before
}

// Submit enqueues the rows first to last of a planned lot, chunk by chunk, as
// generation 1. Submitting again enqueues only what is missing.
func Submit(ctx context.Context, d *Database, lot string, needs Needs, first, last int) (Submitted, error) {
	client, err := d.inserter()
	if err != nil {
		return Submitted{}, err
	}
	var done Submitted
	var batch []river.InsertManyParams
	flush := func() error {
		results, err := client.InsertMany(ctx, batch)
		if err != nil {
			return fmt.Errorf("queue: enqueue chunks of lot %s: %w", lot, err)
		}
		for _, r := range results {
			if r.UniqueSkippedAsDuplicate {
				done.Already++
			} else {
				done.Chunks++
			}
		}
		batch = batch[:0]
		return nil
	}
	for from := first; from <= last; from += ChunkRows {
		chunk := Chunk{Lot: lot, First: from, Last: min(from+ChunkRows-1, last), Generation: 1, Queue: needs.Queue()}
		batch = append(batch, river.InsertManyParams{Args: chunk})
		if len(batch) == submitBatch {
			if err := flush(); err != nil {
				return done, err
			}
		}
	}
	if len(batch) == 0 {
		return done, nil
	}
	return done, flush()
}
