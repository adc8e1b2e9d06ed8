package imaging

import (
	"context"
	"time"
)

// PlanOptions say how a plan is made.
type PlanOptions struct {
	// Now is the time that all timestamps in the images get, whole seconds: the
	// lot's creation, so that the same lot makes the same bytes again.
	Now time.Time
	// WorkDir is where temporary copies of partitions lie, in a folder of their
	// own with mode 0700. Empty: the system's temporary folder. Close removes them.
	WorkDir string
}

// Plan makes overlays for one golden image and one list of targets. It is safe
// for use by many goroutines.
type Plan struct {
}

// NewPlan checks the targets against the golden image.
func NewPlan(ctx context.Context, g *Golden, targets []Target, opt PlanOptions) (*Plan, error) {
	return nil, errSoon
}

// Overlay returns what puts contents, one for each target and in their order,
// into the golden image. The first contents of some lengths make a template,
// which takes a second; further ones take microseconds.
func (p *Plan) Overlay(ctx context.Context, contents [][]byte) (*Overlay, error) {
	return nil, errSoon
}

// Prepare makes the template for contents of these lengths, in bytes, or
// returns the one that is there.
func (p *Plan) Prepare(ctx context.Context, lengths []int64) (*Template, error) { return nil, errSoon }

// Templates returns the templates made so far.
func (p *Plan) Templates() []*Template { return nil }

// Close removes the plan's temporary files. The templates stay usable.
func (p *Plan) Close() error { return nil }
