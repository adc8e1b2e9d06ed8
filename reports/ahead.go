package reports

import (
	"context"
	"iter"
)

// Reading a ledger takes about as long as what is done with what was read, so
// each has a goroutine. Batches of batchRows go from the one to the other, and at
// most aheadBatches of them wait: the reader stops when whoever is slower does
// not keep up.
const (
	batchRows    = 256
	aheadBatches = 4
)

// readAhead sends a sequence in batches to each of outs and closes them at its
// end. After an error it does not: receivers must share the reader's errgroup
// and watch its context. Nobody may change what a batch holds.
func readAhead[T any](ctx context.Context, seq iter.Seq2[T, error], outs ...chan<- []T) error {
	batch := make([]T, 0, batchRows)
	flush := func() error {
		for _, out := range outs {
			select {
			case out <- batch:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		batch = make([]T, 0, batchRows)
		return nil
	}
	for one, err := range seq {
		if err != nil {
			return err
		}
		if batch = append(batch, one); len(batch) == batchRows {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	for _, out := range outs {
		close(out)
	}
	return nil
}

// receive calls take with all that arrives, until in is closed.
func receive[T any](ctx context.Context, in <-chan []T, take func(T) error) error {
	for {
		select {
		case batch, more := <-in:
			if !more {
				return nil
			}
			for _, one := range batch {
				if err := take(one); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
