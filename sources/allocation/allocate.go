// Package allocation hands out MAC addresses and serial numbers to the devices
// of new lots: each identifier once, whatever stations, ranges and patterns ask
// for it, and none that a device of the ledger has already.
package allocation

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"keymill/pipeline"
	"keymill/sources"
)

// Grant is a range of identifiers that a lot was given, both ends included.
type Grant struct {
	Lot         string
	Space       string // ranges of different spaces never overlap; "mac" for addresses
	First, Last uint64 // below 10^18
	Time        time.Time
	Undone      bool // the lot was undone: free for those who ask for it
}

// ErrOverlap is returned by Register.Grant when a range was taken meanwhile.
var ErrOverlap = errors.New("the range overlaps one that was granted already")

// Register is the ledger's memory of what was handed out.
type Register interface {
	// Grants returns the grants of a space that overlap [first, last], in any
	// order.
	Grants(ctx context.Context, space string, first, last uint64) ([]Grant, error)
	// Grant records all grants durably in one transaction. If one of them
	// overlaps a recorded grant of its space (with reuse: one that is not
	// undone), nothing is written and ErrOverlap is returned. A station's
	// overlapping undone grants stay recorded.
	Grant(ctx context.Context, grants []Grant, reuse bool) error
}

// Request asks for identifiers for a lot's devices.
type Request struct {
	Lot   string
	Count int // devices
	// MACs names the attributes that get addresses; a device's are
	// consecutive. Empty: no addresses.
	MACs []string
	From []MACRange // taken in this order
	// Local allows locally administered addresses.
	Local bool
	// Serial gives the attribute serial; nil: none.
	Serial *SerialPattern
	// SerialFirst is the lowest sequence number to use.
	SerialFirst uint64
	// Attrs are the same for every device.
	Attrs []pipeline.Attr
	// Reuse allows identifiers of undone lots.
	Reuse bool
	// Identity is that of sources.Config: its attributes must be among those
	// that the manifest gets.
	Identity []string
	// Held yields every attribute value of the devices that the ledger holds,
	// whatever manifest they came from: addresses and serial numbers among them
	// are passed over. nil: not asked.
	Held func(ctx context.Context) iter.Seq2[string, error]
	// Time is the date in serial numbers, and that of the grants.
	Time time.Time
}

// ExhaustedError says that a pool has too little left. Nothing was granted.
type ExhaustedError struct {
	Pool       string
	Want, Left uint64 // devices
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("the pool of %s has room for %d of %d devices", e.Pool, e.Left, e.Want)
}

// allocateAttempts bounds how often other stations may be faster.
const allocateAttempts = 10

// Allocate picks identifiers that nobody was given and records them. They are
// recorded before anyone sees them: a crash loses some, none is given twice.
func Allocate(ctx context.Context, reg Register, req Request) (*Allocation, error) {
	for range allocateAttempts {
		a, err := Propose(ctx, reg, req)
		if err != nil {
			return nil, err
		}
		err = reg.Grant(ctx, a.Grants, req.Reuse)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, ErrOverlap) {
			return nil, err
		}
	}
	return nil, pipeline.WithHint(fmt.Errorf("no identifiers for lot %s: %w", req.Lot, ErrOverlap), "other stations allocate at the same time: try again")
}

// Propose is Allocate without recording anything.
func Propose(ctx context.Context, reg Register, req Request) (*Allocation, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	a := &Allocation{Count: req.Count, Left: 1 << 62, req: req}
	if req.Serial != nil {
		var err error
		if a.block, err = req.Serial.at(req.Lot, req.Time); err != nil {
			return nil, err
		}
	}
	macs, serials, err := a.survey(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.MACs) > 0 {
		p := picker{name: "MAC addresses", space: MACSpace, unit: uint64(len(req.MACs)), align: 1, held: macs}
		for _, r := range req.From {
			p.ranges = append(p.ranges, span(r))
		}
		if a.macs, err = a.pick(ctx, reg, p); err != nil {
			return nil, err
		}
	}
	if req.Serial != nil {
		b := &a.block
		p := picker{name: fmt.Sprintf("serial numbers %q", req.Serial.text), space: b.space, unit: b.unit, align: b.unit, held: serials,
			ranges: []span{{b.base + min(req.SerialFirst, b.size/b.unit)*b.unit, b.base + b.size - 1}}}
		if a.serial, err = a.pick(ctx, reg, p); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// survey looks through all that the ledger's devices hold and returns what of
// it lies in the request's pools, as numbers of their spaces.
func (a *Allocation) survey(ctx context.Context) (macs, serials []span, err error) {
	if a.req.Held == nil {
		return nil, nil, nil
	}
	for value, err := range a.req.Held(ctx) {
		if err != nil {
			return nil, nil, err
		}
		if m, err := sources.ParseMAC(value); err == nil && len(a.req.MACs) > 0 {
			n := m.Uint64()
			if slices.ContainsFunc(a.req.From, func(r MACRange) bool { return r.First <= n && n <= r.Last }) {
				macs = append(macs, span{n, n})
			}
		}
		if a.req.Serial == nil {
			continue
		}
		if n, ok := a.block.number(value); ok {
			serials = append(serials, span{n, n + a.block.unit - 1})
		}
	}
	return unique(macs), unique(serials), nil
}

// MACSpace is the space of MAC addresses: one for all pools.
const MACSpace = "mac"

func (req *Request) check() error {
	switch {
	case req.Count <= 0:
		return pipeline.WithHint(errors.New("no devices to allocate for"), "give the number of devices")
	case len(req.MACs) == 0 && req.Serial == nil:
		return pipeline.WithHint(errors.New("neither MAC addresses nor serial numbers to allocate"), "configure a range of MAC addresses, a serial number pattern, or both")
	case len(req.MACs) > 0 && len(req.From) == 0:
		return pipeline.WithHint(errors.New("no range to take MAC addresses from"), "configure the block that IEEE assigned to you")
	}
	for i, name := range req.attributes() {
		if what := sources.CheckAttribute(name); what != "" {
			return pipeline.WithHint(errors.New(what), "choose another name")
		}
		if slices.Contains(req.attributes()[:i], name) {
			return pipeline.WithHint(fmt.Errorf("the attribute %s is to be allocated twice", name), "name each attribute once")
		}
	}
	for _, attr := range req.Attrs {
		if what, remedy := sources.CheckValue(attr.Name, attr.Value, slices.Contains(req.Identity, attr.Name)); what != "" {
			return pipeline.WithHint(fmt.Errorf("the attribute %s cannot be the same for every device as given: %s", attr.Name, what), "%s", remedy)
		}
	}
	for _, name := range req.Identity {
		if !slices.Contains(req.attributes(), name) {
			return pipeline.WithHint(fmt.Errorf("the identity's attribute %s is not allocated", name), "let allocate give it, or leave it out of manifest.identity")
		}
	}
	for i, r := range req.From {
		if err := r.check(req.Local); err != nil {
			return err
		}
		for _, other := range req.From[:i] {
			if r.First <= other.Last && other.First <= r.Last {
				return pipeline.WithHint(fmt.Errorf("the ranges %s and %s overlap", other, r), "correct the configured ranges")
			}
		}
	}
	return nil
}

// attributes names the manifest's columns.
func (req *Request) attributes() []string {
	names := slices.Clone(req.MACs)
	if req.Serial != nil {
		names = append(names, sources.AttrSerial)
	}
	for _, attr := range req.Attrs {
		names = append(names, attr.Name)
	}
	return names
}

// pick takes identifiers for the request's devices from a pool's free ranges.
func (a *Allocation) pick(ctx context.Context, reg Register, p picker) ([]span, error) {
	for _, r := range p.ranges {
		if r.First > r.Last {
			continue
		}
		grants, err := reg.Grants(ctx, p.space, r.First, r.Last)
		if err != nil {
			return nil, err
		}
		for _, g := range grants {
			if !g.Undone || !a.req.Reuse {
				p.used = append(p.used, span{g.First, g.Last})
			}
		}
	}
	picked, left, passed := p.pick(uint64(a.Count))
	if picked == nil {
		return nil, pipeline.WithHint(&ExhaustedError{p.name, uint64(a.Count), left}, "%s", p.remedy())
	}
	a.Left = min(a.Left, left)
	a.PassedOver += passed
	for _, s := range picked {
		a.Grants = append(a.Grants, Grant{Lot: a.req.Lot, Space: p.space, First: s.First, Last: s.Last, Time: a.req.Time.UTC()})
	}
	return picked, nil
}
