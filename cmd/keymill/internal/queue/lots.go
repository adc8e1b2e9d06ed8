package queue

import (
	"context"
	"errors"
	"iter"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
)

// Here opens lots at this station.
type Here struct {
	Options station.Options // Shared is set
	// Settled is told how a lot stands when nothing of it is left to do here; nil
	// is allowed.
	Settled func(station.Outcome)
}

var _ Lots = (*Here)(nil)

// Open opens golden image, keys, server and pack of a lot. Other settings than
// the lot was planned with are a *RefusedError: other stations may have them.
func (h *Here) Open(ctx context.Context, lot pipeline.Lot) (Carried, error) {
	l, err := station.OpenPlanned(ctx, h.Options, lot.Name)
	if err != nil {
		return nil, err
	}
	err = l.Reopen(ctx)
	if differs, ok := errors.AsType[*station.DiffersError](err); ok {
		return nil, errors.Join(&RefusedError{Lot: lot.Name, Differs: differs.What}, l.Close())
	}
	if err == nil {
		err = l.Begin(ctx, lot.Devices)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &lotHere{l}, nil
}

// lotHere is a lot that this station works on.
type lotHere struct{ lot *station.Lot }

func (l *lotHere) CarryHeld(ctx context.Context, records iter.Seq2[*pipeline.Record, error], hold pipeline.Hold) error {
	return l.lot.CarryHeld(ctx, records, hold)
}

func (l *lotHere) Share(stations int) {
	l.lot.Server.Share(l.lot.Config.Server.InFlight / stations)
}

func (l *lotHere) Close(ctx context.Context) error {
	_, err := l.lot.End(ctx, nil)
	if err == nil {
		err = l.lot.Sign(context.WithoutCancel(ctx))
	}
	return errors.Join(err, l.lot.Close())
}

// Settle signs this station's head of the lot, and closes the lot where all
// stations have signed theirs and the totals add up.
func (h *Here) Settle(ctx context.Context, lot pipeline.Lot) error {
	l, err := station.OpenPlanned(ctx, h.Options, lot.Name)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Reopen(ctx); err != nil {
		return err
	}
	out, err := l.Settle(ctx)
	if h.Settled != nil && out.Settled {
		h.Settled(out)
	}
	if fault.KindOf(err) == fault.Devices { // told by the outcome; the worker goes on
		return nil
	}
	return err
}
