package station

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// HandOuts appends hand-out marks to a lot's pack before overlays leave it. It
// has the pack open, and so locked against runs of the lot, only while units are
// being made. Its methods may be called by many goroutines.
type HandOuts struct {
	lot  pipeline.Lot
	pack *imaging.Pack // of a run under way, which has it open anyway; else nil

	mu    sync.Mutex
	own   *imaging.Pack
	users int
	close *time.Timer
}

// NewHandOuts marks what leaves a lot's pack.
func NewHandOuts(lot pipeline.Lot) *HandOuts { return &HandOuts{lot: lot} }

// HandOuts marks what leaves the pack of a lot between Begin and End.
func (l *Lot) HandOuts() *HandOuts { return &HandOuts{lot: l.Lot, pack: l.images.pack} }

// packPatience is how long a mark waits for a pack that a run has open.
const packPatience = 10 * time.Second

// packLinger is how long a pack stays open after a mark, as the next one is near.
const packLinger = 20 * time.Second

// Mark says durably that the device's overlay is about to leave for a unit.
func (h *HandOuts) Mark(ctx context.Context, rec *pipeline.Record, unit int, marker [16]byte, recipient string) error {
	mark := imaging.Mark{Key: rec.Identity.Sum(), Entry: imaging.Ref(rec.Pack), Unit: int64(unit), Marker: marker, Time: time.Now(), Recipient: recipient}
	if h.pack != nil {
		return fault.Disk(h.pack.Mark(ctx, mark))
	}
	pack, err := h.open(ctx)
	if err != nil {
		return err
	}
	defer h.done()
	return fault.Disk(pack.Mark(ctx, mark))
}

func (h *HandOuts) open(ctx context.Context) (*imaging.Pack, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.close != nil {
		h.close.Stop()
		h.close = nil
	}
	for until := time.Now().Add(packPatience); h.own == nil; {
		pack, err := imaging.OpenPack(PackPath(h.lot))
		switch {
		case err == nil:
			h.own = pack
			continue
		case !errors.Is(err, imaging.ErrPackInUse):
			return nil, imageGone(h.lot, err)
		case time.Now().After(until):
			return nil, fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("the pack of lot %s is open elsewhere: %w", h.lot.Name, err),
				"A run works on the lot. Let it end; then go on."))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	h.users++
	return h.own, nil
}

func (h *HandOuts) done() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users--; h.users == 0 {
		h.close = time.AfterFunc(packLinger, func() { _ = h.giveUp() }) // what was marked is durable
	}
}

// giveUp closes the pack unless it is in use.
func (h *HandOuts) giveUp() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users > 0 || h.own == nil {
		return nil
	}
	pack := h.own
	h.own = nil
	return pack.Close()
}

// Close gives the pack up.
func (h *HandOuts) Close() error {
	h.mu.Lock()
	if h.close != nil {
		h.close.Stop()
	}
	h.mu.Unlock()
	return h.giveUp()
}

// Run is the number of the run that Begin began, 0 where none is under way.
func (l *Lot) Run() int64 {
	if l.run == nil {
		return 0
	}
	return l.run.id
}
