package process

import (
	"context"
	"sync"
)

// Brake turns interrupts into the two grades of stopping: the first one drains
// a verb that can be drained, any further one (and the first for other verbs)
// cancels.
type Brake struct {
	cancel context.CancelFunc

	mu      sync.Mutex
	drain   chan struct{} // guarded by mu; nil unless a verb asked for it
	pressed bool          // guarded by mu
}

// NewBrake returns a brake whose hard stop is cancel.
func NewBrake(cancel context.CancelFunc) *Brake { return &Brake{cancel: cancel} }

// Drainable returns the channel that the first interrupt closes.
func (b *Brake) Drainable() <-chan struct{} {
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

// Press is one interrupt. drains says that the steps under way are being ended
// now; again, that it was not the first one, so that whoever pressed it is in a
// hurry.
func (b *Brake) Press() (drains, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.pressed
	b.pressed = true
	if first && b.drain != nil {
		close(b.drain)
		return true, false
	}
	b.cancel()
	return false, !first
}
