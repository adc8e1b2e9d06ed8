package mender

import (
	"context"
	"iter"
	"sync"
)

// ahead applies work to all of in, up to width at once, and yields the results
// in the order of in. An error ends it. When the caller stops early, what is
// under way is cancelled, and nothing is left running.
func ahead[T, R any](ctx context.Context, width int, in iter.Seq2[T, error],
	work func(context.Context, T) (R, error)) iter.Seq2[R, error] {
	type result struct {
		value R
		err   error
	}
	return func(yield func(R, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		var queue []chan result
		first := func() bool { // yields the oldest result; false: stop
			r := <-queue[0]
			queue = queue[1:]
			return yield(r.value, r.err) && r.err == nil
		}
		for item, err := range in {
			if err != nil {
				var none R
				yield(none, err)
				return
			}
			slot := make(chan result, 1)
			queue = append(queue, slot)
			running.Go(func() {
				value, err := work(ctx, item)
				slot <- result{value, err}
			})
			if len(queue) >= width && !first() {
				return
			}
		}
		for len(queue) > 0 {
			if !first() {
				return
			}
		}
	}
}
