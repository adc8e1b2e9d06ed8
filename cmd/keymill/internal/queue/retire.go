package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Retired says what became of a station's devices.
type Retired struct {
	Station string `json:"station"`
	Reason  string `json:"reason"`
	Revoked int    `json:"revoked"` // devices that it held leases on
	Rekeyed int    `json:"rekeyed"` // devices that get new keys at other stations
	// Busy are devices whose unit was being written: nothing was changed for them.
	Busy []Device `json:"busy"`
	// Released are devices that it released and whose image went to no unit: their
	// images lie at that station alone.
	Released []Device `json:"released"`
}

// Device names a device of a lot.
type Device struct {
	Lot    string            `json:"lot"`
	Row    int               `json:"row"`
	Device pipeline.Identity `json:"device"`
}

// Retire ends a station that is gone: its leases are revoked and its log takes
// no more events, devices that it had staged get new keys elsewhere, whose
// preauthorization removes the old auth sets first, and its chunks are enqueued
// again. rekeyReleased gives new keys also to released devices without a unit.
// Doing it again goes on where it was interrupted.
func Retire(ctx context.Context, o station.Options, name, reason string, rekeyReleased bool) (Retired, error) {
	done := Retired{Station: name, Reason: reason, Busy: []Device{}, Released: []Device{}}
	cfg, err := o.Settings.For(nil)
	if err != nil {
		return done, err
	}
	if name == cfg.Audit.Station {
		return done, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("station %s can't retire itself", name),
			"Retire it from another station: the events are signed by that one."))
	}
	log := slog.New(slog.DiscardHandler)
	if o.Hooks.LogTo != nil {
		log = logs.New(cfg.Log, o.Hooks.LogTo)
	}
	d, err := openDatabase(ctx, cfg, log)
	if err != nil {
		return done, err
	}
	defer d.Close()
	known, err := station.OpenLedger(ctx, cfg)
	if err != nil {
		return done, err
	}
	defer known.Close()
	if err := knownStation(ctx, known, name); err != nil {
		return done, err
	}
	if done.Revoked, err = known.RetireStation(ctx, name, reason); err != nil {
		return done, err
	}
	lots, err := known.Lots(ctx)
	if err != nil {
		return done, err
	}
	changes := &pipeline.Transitions{Ledger: known, Station: cfg.Audit.Station}
	for _, lot := range lots {
		r := retiring{known: known, changes: changes, lot: lot, rekeyReleased: rekeyReleased, done: &done}
		if err := r.devices(ctx); err != nil {
			return done, err
		}
	}
	if err := station.SignRetired(ctx, o, cfg, known, lots, name, reason); err != nil {
		return done, err
	}
	return done, d.enqueueAgain(ctx, known, lots)
}

// knownStation refuses a name that no station has.
func knownStation(ctx context.Context, known *ledger.Ledger, name string) error {
	all, err := known.Stations(ctx)
	if err != nil {
		return err
	}
	names := make([]string, len(all))
	for i, s := range all {
		if s.Name == name {
			return nil
		}
		names[i] = s.Name
	}
	return fault.As(fault.Usage, pipeline.WithHint(
		fmt.Errorf("the ledger knows no station %q%s", name, say.DidYouMean(say.Nearest(name, names))),
		"`keymill status LOT` lists the stations of a lot."))
}

// retiring goes through a retired station's devices of one lot.
type retiring struct {
	known         *ledger.Ledger
	changes       *pipeline.Transitions
	lot           pipeline.Lot
	rekeyReleased bool
	done          *Retired
}

func (r *retiring) devices(ctx context.Context) error {
	states := []pipeline.State{pipeline.Staged, pipeline.Preauthorized, pipeline.Failed, pipeline.Conflicted, pipeline.Released}
	for rec, err := range r.known.Records(ctx, r.lot.Name, states...) {
		if err != nil {
			return err
		}
		if rec.PackStation != r.done.Station || rec.Superseded != "" {
			continue
		}
		if rec.State == pipeline.Released {
			unit, err := r.known.LiveUnit(ctx, r.lot.Name, rec.Row)
			if err != nil {
				return err
			}
			if unit != nil { // the image is out
				continue
			}
			if !r.rekeyReleased {
				r.done.Released = append(r.done.Released, r.device(rec))
				continue
			}
		}
		if err := r.rekey(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// rekey sends a device back to the start. Its old key is still in the pack of
// the station that is gone; off the server it is worth nothing.
func (r *retiring) rekey(ctx context.Context, rec *pipeline.Record) error {
	err := r.changes.Abandoned(ctx, rec, "station "+r.done.Station+" was retired: "+r.done.Reason)
	switch {
	case errors.Is(err, pipeline.ErrUnitBusy):
		r.done.Busy = append(r.done.Busy, r.device(rec))
		return nil
	case errors.Is(err, pipeline.ErrLost): // another station took it meanwhile
		return nil
	case err != nil:
		return err
	}
	r.done.Rekeyed++
	return nil
}

func (r *retiring) device(rec *pipeline.Record) Device {
	return Device{Lot: r.lot.Name, Row: rec.Row, Device: rec.Identity}
}

// enqueueAgain sweeps the lots that were submitted at once, so that no worker's
// next look is waited for.
func (d *Database) enqueueAgain(ctx context.Context, known *ledger.Ledger, lots []pipeline.Lot) error {
	client, err := d.inserter()
	if err != nil {
		return err
	}
	names, err := d.lots(ctx)
	if err != nil {
		return err
	}
	for _, lot := range lots {
		if !names[lot.Name] {
			continue
		}
		loose, err := known.Loose(ctx, lot.Name, ChunkRows)
		if err != nil {
			return err
		}
		if _, err := d.sweep(ctx, client, lot.Name, NeedsOf(lot).Queue(), loose, 0); err != nil {
			return err
		}
	}
	return nil
}
