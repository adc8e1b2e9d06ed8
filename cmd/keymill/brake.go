package main

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// brake turns interrupts into the two grades of stopping: the first one drains
// a verb that can be drained, any further one (and the first for other verbs)
// cancels.
type brake struct {
	cancel context.CancelFunc

	mu      sync.Mutex
	drain   chan struct{} // guarded by mu; nil unless a verb asked for it
	pressed bool          // guarded by mu
}

func newBrake(cancel context.CancelFunc) *brake { return &brake{cancel: cancel} }

// drainable returns the channel that the first interrupt closes.
func (b *brake) drainable() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drain == nil {
		b.drain = make(chan struct{})
		if b.pressed {
			close(b.drain)
		}
	}
	return b.drain
}

// draining reports whether the drain was asked for.
func (b *brake) draining() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pressed
}

// press is one interrupt; it reports whether it was not the first one, so that
// whoever pressed it is in a hurry.
func (b *brake) press(w io.Writer) (again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.pressed
	b.pressed = true
	if first && b.drain != nil {
		fmt.Fprintln(w, "\nStopping: the steps under way are being finished. Interrupt again to stop at once; both can be resumed.")
		close(b.drain)
		return false
	}
	b.cancel()
	return !first
}
