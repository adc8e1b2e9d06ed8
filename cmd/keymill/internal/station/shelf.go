package station

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
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
	log    *slog.Logger

	mu   sync.Mutex // guards what follows
	lots map[string]*shelvedLot
	// sent has what went out of each unit that this process serves, by lot and number.
	sent map[string][]imaging.Span
	// busy are the units whose own bytes are on their way: a second transfer of them at
	// the same time would be a second unit.
	busy map[string]bool
	// turns let one request at a time decide about a device's unit.
	turns map[string]*sync.Mutex
}

// shelvedLot is a lot that is open.
type shelvedLot struct {
	lot    pipeline.Lot
	golden *imaging.Golden
	pack   *imaging.PackReader
}

// NewShelf returns the lots of a ledger, which the shelf closes.
func NewShelf(cfg *config.Config, known *ledger.Ledger, log *slog.Logger) *Shelf {
	return &Shelf{cfg: cfg, ledger: known, log: log, lots: map[string]*shelvedLot{}, sent: map[string][]imaging.Span{}, busy: map[string]bool{}, turns: map[string]*sync.Mutex{}}
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
	if found[0].State != pipeline.Released {
		return nil, nil, &imaging.ServeRefusal{Status: http.StatusConflict,
			Text: fmt.Sprintf("the device is %s: only released devices are given out", found[0].State)}
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
	image, err := imaging.NewReader(shelved.golden, overlay)
	if err == nil {
		err = keyMatches(shelved.lot, found[0], overlay.Template, image)
	}
	if err != nil {
		return nil, nil, err
	}
	return shelved.golden, overlay, nil
}

// Begin implements imaging.ServeOptions.Begin: the first request for a device's own
// bytes opens a unit for its client, whose further requests belong to it.
func (s *Shelf) Begin(ctx context.Context, r imaging.ServeRequest) (ended func([]imaging.Span), err error) {
	shelved, err := s.lot(ctx, r.Lot)
	if err != nil {
		return nil, err
	}
	found, err := s.ledger.Find(ctx, r.Lot, r.Device)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fs.ErrNotExist
	}
	rec := found[0]
	units := (&View{s.ledger, shelved.lot, s.cfg}).Units()
	turn := s.turn(fmt.Sprintf("%s/%d", r.Lot, rec.Row))
	turn.Lock()
	defer turn.Unlock()
	unit, err := s.unitFor(ctx, units, rec, r)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s/%d", r.Lot, unit.Number)
	s.mu.Lock()
	if s.busy[name] {
		s.mu.Unlock()
		return nil, &imaging.ServeRefusal{Status: http.StatusConflict, Text: "these bytes are on their way to this client already; ask again when that has ended"}
	}
	s.busy[name] = true
	if _, known := s.sent[name]; !known {
		// What the client had before this process began it need not fetch again.
		s.sent[name] = []imaging.Span{{Offset: 0, Length: r.From}}
	}
	s.mu.Unlock()
	return func(sent []imaging.Span) {
		turn.Lock()
		defer turn.Unlock()
		s.mu.Lock()
		all := append(s.sent[name], sent...)
		s.sent[name] = all
		delete(s.busy, name)
		s.mu.Unlock()
		if unit.State == pipeline.UnitWriting && imaging.Covers(all, shelved.golden.Size()) {
			// A parallel request of the same client may have been the last one.
			if now, err := s.ledger.LiveUnit(ctx, rec.Lot, rec.Row); err == nil && now != nil && now.Number == unit.Number && now.State == pipeline.UnitWriting {
				if err := units.Move(context.WithoutCancel(ctx), rec, now, pipeline.UnitDelivered); err != nil {
					s.log.Error("the unit's delivery could not be recorded", "lot", r.Lot, "unit", unit.Number, "err", err)
				}
			}
		}
	}, nil
}

func (s *Shelf) turn(device string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns[device] == nil {
		s.turns[device] = new(sync.Mutex)
	}
	return s.turns[device]
}

// unitFor returns the client's unit, a new one if the device has none.
func (s *Shelf) unitFor(ctx context.Context, units *Units, rec *pipeline.Record, r imaging.ServeRequest) (*pipeline.Unit, error) {
	live, err := s.ledger.LiveUnit(ctx, rec.Lot, rec.Row)
	if err != nil {
		return nil, err
	}
	if live != nil && live.State == pipeline.UnitWriting && live.Client == r.Client && live.ETag == r.ETag {
		if units.dead(live) {
			return live, units.Resume(ctx, rec, live)
		}
		return live, nil
	}
	if live != nil && live.State != pipeline.UnitReserved {
		return nil, conflict(&pipeline.UnitTakenError{Unit: live})
	}
	unit, err := units.Reserve(ctx, rec, pipeline.Unit{Client: r.Client, ETag: r.ETag, Recipient: r.Client})
	if err == nil {
		return unit, nil
	}
	if kind := fault.KindOf(err); kind == fault.Usage || kind == fault.Devices {
		return nil, conflict(err)
	}
	return nil, err
}

// conflict is the answer to who asks for what another one has.
func conflict(err error) error {
	return &imaging.ServeRefusal{Status: http.StatusConflict, Text: err.Error() + ". " + fault.Hint(err)}
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
	if err := golden.Prove(ctx); err != nil {
		return nil, files.Closing(golden, err)
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
