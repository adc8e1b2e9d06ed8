package mender

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"time"

	"keymill/pipeline"
)

// Removal is what became of a key that was to be removed.
type Removal string

// What can become of it.
const (
	Removed   Removal = "removed"  // the server has taken it off, or is about to
	WasGone   Removal = "was-gone" // the server had neither the device nor the key
	KeptOther Removal = "kept"     // the identity is there with other keys only: not ours to remove
	Failed    Removal = "failed"   // see the error
)

// Undone is the result for one device.
type Undone struct {
	Expected
	Removal Removal
	Err     error // the device's own trouble; only with Failed
}

// Undo removes the expected keys from the server, many at once, and yields what
// became of each, in order. It removes these keys only: a device that has
// others too keeps them. It may be stopped and started again at will. An
// *pipeline.Outage or ctx.Err() ends it. The server deletes devices in its own
// time: Lingering says which are still there.
func (c *Client) Undo(ctx context.Context, expected iter.Seq2[Expected, error]) iter.Seq2[Undone, error] {
	return ahead(ctx, c.gate.limit.most, c.lookAll(ctx, expected), func(ctx context.Context, l looked) (Undone, error) {
		removal, err := c.removeLooked(ctx, l)
		if isOutage(err) || ctx.Err() != nil {
			return Undone{Expected: l.Expected, Removal: Failed}, err
		}
		return Undone{Expected: l.Expected, Removal: removal, Err: err}, nil
	})
}

func (c *Client) removeLooked(ctx context.Context, l looked) (Removal, error) {
	switch {
	case l.DeviceID == "":
		return c.RemoveKey(ctx, l.Expected)
	case l.dev == nil:
		return WasGone, nil
	}
	return c.removeKey(ctx, l.Expected, l.dev)
}

// RemoveKey removes one key of one device, and the device if that was its only
// one. Without a DeviceID it finds the device by preauthorizing the key again,
// which is the only question about an identity that the server answers.
func (c *Client) RemoveKey(ctx context.Context, e Expected) (Removal, error) {
	if e.DeviceID == "" {
		id, err := c.locate(ctx, e)
		if err != nil {
			return Failed, err
		}
		e.DeviceID = id
	}
	dev, _, err := c.looks.device(ctx, e.DeviceID)
	if errors.Is(err, ErrNotFound) {
		return WasGone, nil
	}
	if err != nil {
		return Failed, err
	}
	return c.removeKey(ctx, e, dev)
}

func (c *Client) removeKey(ctx context.Context, e Expected, dev *Device) (Removal, error) {
	if dev.Decommissioning {
		return Removed, nil
	}
	found := compare(dev, e.SPKI)
	var err error
	switch {
	case found.ours == nil && len(found.others) > 0:
		return KeptOther, nil
	case len(found.others) > 0:
		err = c.DeleteAuthSet(ctx, dev.ID, found.ours.ID)
	default: // our key alone, or what a failed preauthorization left without any
		err = c.DeleteDevice(ctx, dev.ID)
	}
	if err != nil {
		return Failed, err
	}
	return Removed, nil
}

// Lingering yields those of the expected keys that are still on the server, of
// devices that have an id: after an undo, mostly those of devices that the
// server is still deleting (CatDeleting).
func (c *Client) Lingering(ctx context.Context, expected iter.Seq2[Expected, error]) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		for l, err := range c.lookAll(ctx, expected) {
			if err != nil {
				yield(Finding{}, err)
				return
			}
			if f := Classify(l.Expected, l.dev); !f.Category.Gone() && !yield(f, nil) {
				return
			}
		}
	}
}

const (
	// A server that deletes devices is asked again after pauses between these.
	lingerFirst = time.Second
	lingerMost  = 15 * time.Second
)

// AwaitDeleted waits until the server has deleted all devices of those ids, and
// returns how many were left when patience ended. told is called with how many
// are left at each look; nil is allowed.
func (c *Client) AwaitDeleted(ctx context.Context, ids []string, patience time.Duration, told func(left int)) (int, error) {
	deadline := time.Now().Add(patience)
	for pause := lingerFirst; len(ids) > 0; pause = min(2*pause, lingerMost) {
		var left []string
		for chunk, err := range chunks(withoutErrors(ids), perPage) {
			if err != nil {
				return len(ids), err
			}
			found, _, err := c.devicesByID(ctx, chunk)
			if err != nil {
				return len(ids), err
			}
			for _, id := range chunk {
				if found[id] != nil && found[id].Decommissioning {
					left = append(left, id)
				}
			}
		}
		if ids = left; told != nil {
			told(len(ids))
		}
		wait := min(pause, time.Until(deadline))
		if len(ids) == 0 || wait <= 0 {
			break
		}
		if err := sleep(ctx, wait); err != nil {
			return len(ids), err
		}
	}
	return len(ids), nil
}

func (c *Client) locate(ctx context.Context, e Expected) (string, error) {
	p := &preauthorization{c: c, req: pipeline.Preauth{Identity: e.Identity, SPKI: e.SPKI}}
	k, err := p.post(ctx, false)
	if err == nil && k.status == http.StatusCreated {
		return locationID(k.header), nil
	}
	return p.id, err
}
