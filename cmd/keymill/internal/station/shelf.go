package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Shelf finds the images of all lots of a ledger. It keeps golden images and
// packs open.
type Shelf struct {
	cfg    *config.Config
	ledger *ledger.Ledger

	mu   sync.Mutex
	lots map[string]*shelvedLot // guarded by mu
}

// shelvedLot is a lot that is open.
type shelvedLot struct {
	lot    pipeline.Lot
	golden *imaging.Golden
	pack   *imaging.PackReader
}

// NewShelf returns the lots of a ledger, which the shelf closes.
func NewShelf(cfg *config.Config, known *ledger.Ledger) *Shelf {
	return &Shelf{cfg: cfg, ledger: known, lots: map[string]*shelvedLot{}}
}

// Resolve implements imaging.ServeOptions.Resolve.
func (s *Shelf) Resolve(ctx context.Context, lotName, device string) (imaging.Image, *imaging.Overlay, error) {
	shelved, err := s.lot(ctx, lotName)
	if err != nil {
		return nil, nil, err
	}
	found, err := s.ledger.Find(ctx, lotName, device)
	if err != nil {
		return nil, nil, err
	}
	if len(found) != 1 || found[0].Pack.IsZero() {
		return nil, nil, fmt.Errorf("lot %s, device %q: %w", lotName, device, fs.ErrNotExist)
	}
	key, overlay, err := shelved.pack.Read(imaging.Ref(found[0].Pack))
	if errors.Is(err, imaging.ErrDestroyed) {
		return nil, nil, fmt.Errorf("%w: the image was published, and the pack is not the lot's product (%w)", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if key != found[0].Identity.Sum() {
		return nil, nil, errors.New("the pack entry belongs to another device")
	}
	return shelved.golden, overlay, nil
}

func (s *Shelf) lot(ctx context.Context, name string) (*shelvedLot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shelved, ok := s.lots[name]; ok {
		return shelved, nil
	}
	lot, err := s.ledger.Lot(ctx, name)
	if errors.Is(err, ledger.ErrNoLot) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	cfg := *s.cfg
	cfg.Image.Golden = lot.GoldenPath
	golden, err := OpenGolden(ctx, &cfg, lot)
	if err != nil {
		return nil, err
	}
	pack, err := imaging.ReadPack(PackPath(lot))
	if err != nil {
		return nil, files.Closing(golden, err)
	}
	s.lots[name] = &shelvedLot{lot, golden, pack}
	return s.lots[name], nil
}

// Close closes what was opened.
func (s *Shelf) Close() error {
	errs := []error{s.ledger.Close()}
	for _, shelved := range s.lots {
		errs = append(errs, shelved.pack.Close(), shelved.golden.Close())
	}
	return errors.Join(errs...)
}
