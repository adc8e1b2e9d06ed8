package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// OpenKnown opens the ledger if there is one, and returns nil if there is none:
// what changes nothing must not make it.
func OpenKnown(ctx context.Context, path string) (*ledger.Ledger, error) {
	if config.IsDatabaseURL(path) {
		return ledger.Open(ctx, path)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return ledger.Open(ctx, path)
}

// OpenLedger opens a ledger that must be there.
func OpenLedger(ctx context.Context, cfg *config.Config) (*ledger.Ledger, error) {
	known, err := OpenKnown(ctx, cfg.Ledger)
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("there is no ledger %s", cfg.Ledger),
			"Name it with --ledger, or change to the folder that it lies in; `keymill run` makes it."))
	}
	return known, nil
}

// FindLot returns a lot, or an error that names those that exist.
func FindLot(ctx context.Context, known *ledger.Ledger, name string) (pipeline.Lot, error) {
	lot, err := known.Lot(ctx, name)
	if !errors.Is(err, ledger.ErrNoLot) {
		return lot, err
	}
	lots, err := known.Lots(ctx)
	if err != nil {
		return lot, err
	}
	names := make([]string, len(lots))
	for i := range lots {
		names[i] = lots[i].Name
	}
	return lot, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("the ledger has no lot %q%s", name, say.DidYouMean(say.Nearest(name, names))),
		"`keymill status` lists the lots."))
}

// View is a planned lot that is looked at. Close closes its ledger.
type View struct {
	*ledger.Ledger
	Planned pipeline.Lot
	Config  *config.Config
}

// OpenView opens the ledger and finds the lot, with its settings as defaults.
func OpenView(ctx context.Context, settings config.Layers, name string) (*View, error) {
	cfg, err := settings.For(nil)
	if err != nil {
		return nil, err
	}
	known, err := OpenLedger(ctx, cfg)
	if err != nil {
		return nil, err
	}
	lot, err := FindLot(ctx, known, name)
	if err != nil {
		return nil, errors.Join(err, known.Close())
	}
	if cfg, err = settings.For(&lot); err != nil {
		return nil, errors.Join(err, known.Close())
	}
	return &View{known, lot, cfg}, nil
}

// Device finds the one device that value names, and that has a key.
func (v *View) Device(ctx context.Context, value string) (*pipeline.Record, error) {
	found, err := v.Find(ctx, v.Planned.Name, value)
	if err != nil {
		return nil, err
	}
	return theDevice(v.Planned, value, found)
}
