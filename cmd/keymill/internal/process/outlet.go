package process

import (
	"fmt"
	"io"
	"sync"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// Outlet is standard output. It remembers that something could not be written,
// so that `keymill audit key > station.pem` on a full disk does not end with 0.
type Outlet struct {
	W io.Writer

	mu  sync.Mutex
	err error // guarded by mu; the first one
}

func (o *Outlet) Write(p []byte) (int, error) {
	n, err := o.W.Write(p)
	return n, o.note(err)
}

// ReadFrom leaves the copying to the kernel where it can do it.
func (o *Outlet) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(o.W, r)
	return n, o.note(err)
}

func (o *Outlet) note(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	return err
}

// Fault is the error of a verb that has succeeded otherwise.
func (o *Outlet) Fault() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return nil
	}
	return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("the results could not be written: %w", o.err),
		"What the verb does is done; see where its standard output goes, and ask again."))
}
