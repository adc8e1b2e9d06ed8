package station

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// Return is a unit that came back.
type Return struct {
	Device string // an identity value or the serial
	Reason string // a person's; it is recorded
	// Board is the first identity value of the board that the device is on now;
	// "" where it is the one of before. Another one is refused: the lot's roster,
	// which its evidence fixes, has the device under the identity of before.
	Board string
}

// RMA scraps the unit of a released device, gives the device a new key, whose
// predecessor comes off the server first, and carries this device alone.
func RMA(ctx context.Context, o Options, name string, r Return) (Outcome, error) {
	if strings.TrimSpace(r.Reason) == "" {
		return Outcome{}, fault.Usagef("rma needs --reason: it is recorded")
	}
	l, err := OpenPlanned(ctx, o, name)
	if err != nil {
		return Outcome{}, err
	}
	defer l.Close()
	if err := l.returnable(ctx, r); err != nil {
		return Outcome{}, err
	}
	if err := l.Reopen(ctx); err != nil {
		return Outcome{}, err
	}
	records, err := l.rekey(ctx, []string{r.Device}, func(changes *pipeline.Transitions, rec *pipeline.Record) error {
		err := changes.Returned(ctx, rec, r.Reason)
		if errors.Is(err, pipeline.ErrUnitBusy) {
			err = fault.As(fault.Usage, err)
		}
		return err
	})
	if err != nil {
		return Outcome{}, err
	}
	return l.work(ctx, 1, func(yield func(*pipeline.Record, error) bool) {
		for _, rec := range records {
			if !yield(rec, nil) {
				return
			}
		}
	})
}

// returnable refuses what no unit can have come back of.
func (l *Lot) returnable(ctx context.Context, r Return) error {
	found, err := l.Ledger.Find(ctx, l.Name, r.Device)
	if err != nil {
		return err
	}
	rec, err := theDevice(l.Lot, r.Device, found)
	if err != nil {
		return err
	}
	if r.Board != "" && r.Board != rec.Identity[0].Value {
		return fault.As(fault.Usage, pipeline.WithHint(
			fmt.Errorf("%s can't go on under another identity: the lot's roster has it as %s; nothing was changed", r.Device, rec.Identity),
			"For the same board, leave --board out. A new board's identity needs a manifest and a lot of its own: "+
				"scrap the old unit (`keymill unit scrap`), and take the old identity off the Mender server."))
	}
	switch rec.State {
	case pipeline.Released:
		return nil
	case pipeline.Undone:
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s is undone", rec.Identity), "Plan it in another lot."))
	default:
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s is %s, not released: no unit of it can have come back", rec.Identity, rec.State),
			"`keymill retry %s` carries it, with --rekey under a new key.", l.Name))
	}
}
