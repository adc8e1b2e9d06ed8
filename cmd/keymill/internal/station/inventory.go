package station

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/trace"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// describer says what the server's inventory shall say of a lot's devices.
type describer struct {
	group *pipeline.Text // nil for none
	tags  []describedTag
}

type describedTag struct {
	name string
	text *pipeline.Text
}

// newDescriber reads server.device. It returns nil where that asks for nothing.
func newDescriber(cfg config.DeviceConfig) (*describer, error) {
	d := &describer{}
	tags := maps.Clone(cfg.Tags)
	if cfg.Name != "" {
		if tags == nil {
			tags = map[string]string{}
		}
		if _, twice := tags[mender.TagName]; twice {
			return nil, fault.Usagef("server.device has a name and a tag %q, which are the same to Mender; set one", mender.TagName)
		}
		tags[mender.TagName] = cfg.Name
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		text, err := pipeline.NewText("server.device.tags."+name, tags[name])
		if err != nil {
			return nil, fault.As(fault.Usage, err)
		}
		d.tags = append(d.tags, describedTag{name, text})
	}
	if cfg.Group != "" {
		text, err := pipeline.NewText("server.device.group", cfg.Group)
		if err != nil {
			return nil, fault.As(fault.Usage, err)
		}
		d.group = text
	}
	if d.group == nil && d.tags == nil {
		return nil, nil
	}
	sample := mender.InventoryItem{}
	for _, t := range d.tags {
		sample.Tags = append(sample.Tags, pipeline.Attr{Name: t.name})
	}
	if err := sample.Check(); err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	return d, nil
}

// attributes are the attributes that a manifest must have for it.
func (d *describer) attributes() []string {
	var names []string
	for _, t := range d.tags {
		names = append(names, t.text.Attributes()...)
	}
	if d.group != nil {
		names = append(names, d.group.Attributes()...)
	}
	return names
}

// item renders what the inventory shall say of a device.
func (d *describer) item(rec *pipeline.Record) (item mender.InventoryItem, err error) {
	item.DeviceID = rec.Auth.DeviceID
	if d.group != nil {
		if item.Group, err = d.group.Render(&rec.Device); err != nil {
			return item, err
		}
	}
	for _, t := range d.tags {
		value, err := t.text.Render(&rec.Device)
		if err != nil {
			return item, err
		}
		item.Tags = append(item.Tags, pipeline.Attr{Name: t.name, Value: value})
	}
	return item, item.Check()
}

// Described is how far the server's inventory describes a lot's devices.
type Described struct {
	Asked   bool // server.device asks for it
	Done    int  // devices that were described now
	Pending int  // devices that the inventory doesn't know yet, or that nothing was asked about because of Trouble
	Failed  int  // devices that it refused
	Trouble error
}

const (
	// The inventory is told of devices some time after the preauthorization: it
	// is asked again after pauses between these, for inventoryPatience in all.
	inventoryFirst    = 500 * time.Millisecond
	inventoryMost     = 10 * time.Second
	inventoryPatience = time.Minute
	// inventoryBatch is how many results are recorded in one transaction.
	inventoryBatch = 500
)

// describing is one pass over the devices that the inventory shall describe.
type describing struct {
	*Lot
	describer *describer
	again     bool // also those that were refused
	queue     []*pipeline.Record
	settled   []*pipeline.Record // to be recorded
	absent    int
	troubled  bool
	done      *Described
}

// Describe makes the inventory describe the lot's devices as server.device says.
// Nothing about a device hangs on it, so trouble is told and not returned: the
// only errors are the ledger's, and ctx.Err(). With again, devices that were
// refused are tried once more.
func (l *Lot) Describe(ctx context.Context, again bool) (done Described, err error) {
	ctx, ended := trace.Phase(ctx, "inventory")
	defer func() { ended(&err) }()
	d, err := newDescriber(l.Config.Server.Device)
	if err != nil || d == nil {
		return done, err
	}
	done.Asked = true
	if err := l.Ledger.AskInventory(ctx, l.Name); err != nil {
		return done, err
	}
	totals, err := l.Ledger.Totals(ctx, l.Name)
	if err != nil {
		return done, err
	}
	if totals.InventoryPending == 0 && (!again || totals.InventoryFailed == 0) {
		done.Failed = totals.InventoryFailed
		return done, nil
	}
	done.Trouble = l.openServer(ctx, 0)
	if done.Trouble == nil {
		if err := l.describeAll(ctx, d, again, &done); err != nil {
			return done, err
		}
	}
	if totals, err = l.Ledger.Totals(ctx, l.Name); err != nil {
		return done, err
	}
	done.Pending, done.Failed = totals.InventoryPending, totals.InventoryFailed
	return done, nil
}

func (l *Lot) describeAll(ctx context.Context, d *describer, again bool, done *Described) error {
	deadline := time.Now().Add(inventoryPatience)
	for pause := inventoryFirst; !l.draining(); pause = min(2*pause, inventoryMost) {
		p := &describing{Lot: l, describer: d, again: again, done: done}
		if err := p.pass(ctx); err != nil {
			return err
		}
		again = false // once is enough
		if p.troubled || p.absent == 0 || time.Now().Add(pause).After(deadline) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-l.drain:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pass goes through all devices that are pending once.
func (p *describing) pass(ctx context.Context) error {
	for r, err := range p.Server.SetInventory(ctx, p.items(ctx)) {
		if broken, ok := errors.AsType[*ledgerError](err); ok {
			return broken.error
		}
		if err != nil {
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), p.record(context.WithoutCancel(ctx)))
			}
			p.done.Trouble, p.troubled = err, true
			break
		}
		rec := p.queue[0]
		p.queue = p.queue[1:]
		switch r.State {
		case mender.InventoryAbsent:
			p.absent++
			continue
		case mender.InventoryDone:
			rec.Inventory, rec.InventoryReason = pipeline.InventoryDone, ""
			p.done.Done++
		default:
			rec.Inventory, rec.InventoryReason = pipeline.InventoryFailed, r.Err.Error()
			p.Log.Warn("the inventory doesn't describe a device", "device", rec.Identity.Name(), "row", rec.Row, "reason", rec.InventoryReason)
		}
		if err := p.settle(ctx, rec); err != nil {
			return err
		}
		if p.draining() {
			break
		}
	}
	return p.record(ctx)
}

// ledgerError is trouble with the ledger, as it comes out of the server's part.
type ledgerError struct{ error }

func (e *ledgerError) Unwrap() error { return e.error }

// items yields what shall be said of the devices, and queues these.
func (p *describing) items(ctx context.Context) iter.Seq2[mender.InventoryItem, error] {
	return func(yield func(mender.InventoryItem, error) bool) {
		for rec, err := range p.Ledger.Records(ctx, p.Name) {
			if err != nil {
				yield(mender.InventoryItem{}, &ledgerError{err})
				return
			}
			if rec.State == pipeline.Undone || rec.Superseded != "" ||
				(rec.Inventory != pipeline.InventoryPending && (!p.again || rec.Inventory != pipeline.InventoryFailed)) {
				continue
			}
			item, err := p.describer.item(rec)
			if err == nil && item.DeviceID == "" {
				err = errors.New("the server's id of the device is not known")
			}
			if err != nil {
				rec.Inventory, rec.InventoryReason = pipeline.InventoryFailed, err.Error()
				if err := p.settle(ctx, rec); err != nil {
					yield(mender.InventoryItem{}, &ledgerError{err})
					return
				}
				continue
			}
			p.queue = append(p.queue, rec)
			if !yield(item, nil) {
				return
			}
		}
	}
}

// settle records a result, many at once.
func (p *describing) settle(ctx context.Context, rec *pipeline.Record) error {
	if p.settled = append(p.settled, rec); len(p.settled) < inventoryBatch {
		return nil
	}
	return p.record(ctx)
}

func (p *describing) record(ctx context.Context) error {
	err := p.Ledger.SetInventories(ctx, p.Name, p.settled)
	p.settled = p.settled[:0]
	return err
}

// RetryInventory goes on describing a lot's devices in the server's inventory.
// Its error is fault.Told where some are not described, which the result says.
func RetryInventory(ctx context.Context, o Options, name string) (Described, error) {
	l, err := OpenPlanned(ctx, o, name)
	if err != nil {
		return Described{}, err
	}
	defer l.Close()
	done, err := l.Describe(ctx, true)
	switch {
	case err != nil:
		return done, err
	case !done.Asked:
		return done, fault.As(fault.Usage, pipeline.WithHint(errors.New("server.device asks for nothing"),
			"Set server.device.name, group or tags in %s.", config.File))
	case done.Trouble != nil && fault.KindOf(done.Trouble) == fault.Internal:
		return done, fault.As(fault.Server, done.Trouble)
	case done.Trouble != nil:
		return done, done.Trouble
	case done.Pending+done.Failed > 0:
		return done, fault.Told(fault.Devices, "%d devices are not described", done.Pending+done.Failed)
	}
	return done, nil
}

// VerifiedInventory is how the server's inventory describes a lot's devices.
type VerifiedInventory struct {
	Devices int                  `json:"devices"`
	Counts  map[string]int       `json:"counts"`
	Off     []VerifiedInventored `json:"off"`
}

// VerifiedInventored is a device that the inventory doesn't describe as it should.
type VerifiedInventored struct {
	Identity map[string]string `json:"identity"`
	State    string            `json:"state"`
	Reason   string            `json:"reason,omitempty"`
}

// compareInventory compares what the inventory says with server.device; what it
// said once and doesn't any more is off.
func (l *Lot) compareInventory(ctx context.Context, result *Verified) error {
	d, err := newDescriber(l.Config.Server.Device)
	if err != nil || d == nil {
		return err
	}
	view := &VerifiedInventory{Counts: map[string]int{}, Off: []VerifiedInventored{}}
	var queue []*pipeline.Record
	items := func(yield func(mender.InventoryItem, error) bool) {
		for rec, err := range l.Ledger.Records(ctx, l.Name, pipeline.Preauthorized, pipeline.Released, pipeline.Failed) {
			if err == nil && rec.Auth.Status == "" {
				continue
			}
			var item mender.InventoryItem
			if err == nil {
				if item, err = d.item(rec); err != nil {
					continue // its record says so
				}
				queue = append(queue, rec)
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
	for r, err := range l.Server.CompareInventory(ctx, items) {
		if err != nil {
			return err
		}
		rec := queue[0]
		queue = queue[1:]
		view.Devices++
		view.Counts[string(r.State)]++
		if r.State == mender.InventoryDone {
			continue
		}
		if rec.Inventory == pipeline.InventoryDone {
			result.OK = false
		}
		if len(view.Off) < maxOff {
			off := VerifiedInventored{Identity: map[string]string{}, State: string(r.State)}
			for _, attr := range rec.Identity {
				off.Identity[attr.Name] = attr.Value
			}
			if r.Err != nil {
				off.Reason = r.Err.Error()
			}
			view.Off = append(view.Off, off)
		}
	}
	result.Inventory = view
	return nil
}

// inventoryRequests is about how many requests describing so many devices takes.
func inventoryRequests(cfg config.DeviceConfig, devices int) (int, error) {
	d, err := newDescriber(cfg)
	if err != nil || d == nil {
		return 0, err
	}
	return mender.InventoryRequests(devices, d.tags != nil, d.group != nil), nil
}

// String says how it stands, for people; "" where nothing was asked for.
func (d Described) String() string {
	if !d.Asked {
		return ""
	}
	text := fmt.Sprintf("%d devices described now", d.Done)
	if d.Pending > 0 {
		text += fmt.Sprintf(", %d pending", d.Pending)
	}
	if d.Failed > 0 {
		text += fmt.Sprintf(", %d refused", d.Failed)
	}
	if d.Trouble != nil {
		text += fmt.Sprintf(" (%v)", d.Trouble)
	}
	return text
}
