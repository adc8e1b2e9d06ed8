package mender

import (
	"context"
	"errors"
	"iter"
	"net/http"

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
// *pipeline.Outage or ctx.Err() ends it.
func (c *Client) Undo(ctx context.Context, expected iter.Seq2[Expected, error]) iter.Seq2[Undone, error] {
	return ahead(ctx, c.gate.limit.most, expected, func(ctx context.Context, e Expected) (Undone, error) {
		removal, err := c.RemoveKey(ctx, e)
		if isOutage(err) || ctx.Err() != nil {
			return Undone{Expected: e, Removal: Failed}, err
		}
		return Undone{Expected: e, Removal: removal, Err: err}, nil
	})
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
	dev, err := c.Device(ctx, e.DeviceID)
	if errors.Is(err, ErrNotFound) {
		return WasGone, nil
	}
	if err != nil {
		return Failed, err
	}
	if dev.Decommissioning {
		return Removed, nil
	}
	found := compare(dev, e.SPKI)
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

func (c *Client) locate(ctx context.Context, e Expected) (string, error) {
	p := &preauthorization{c: c, req: pipeline.Preauth{Identity: e.Identity, SPKI: e.SPKI}}
	k, err := p.post(ctx, false)
	if err == nil && k.status == http.StatusCreated {
		return locationID(k.header), nil
	}
	return p.id, err
}
