package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// openDatabase opens the queue beside a ledger in PostgreSQL.
func openDatabase(ctx context.Context, cfg *config.Config, log *slog.Logger) (*Database, error) {
	if !config.IsDatabaseURL(cfg.Ledger) {
		return nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("many stations need a ledger that they share, and this one is a file"),
			"Set ledger to a PostgreSQL database, such as postgres://keymill@db.example.com/keymill; one station alone uses `keymill run`."))
	}
	postgres, err := ledger.PostgresConfig(cfg.Ledger)
	if err != nil {
		return nil, err
	}
	d, err := Open(ctx, postgres, log)
	if err != nil {
		return nil, &pipeline.Outage{Part: pipeline.PartStorage, Err: err, Hint: "Look at the database, then run the same command again."}
	}
	return d, nil
}

// SubmitLot plans the lot of a manifest as run does, and enqueues its devices. A
// lot that is planned already is enqueued as far as it is not.
func SubmitLot(ctx context.Context, o station.Options, manifest, name string) (done Submitted, err error) {
	o.Shared = true
	l, err := station.Open(ctx, o, name)
	if err != nil {
		return done, err
	}
	defer l.Close()
	d, err := openDatabase(ctx, l.Config, l.Log)
	if err != nil {
		return done, err
	}
	defer d.Close()
	if l.Planned() {
		err = l.Resume(ctx, manifest)
	} else {
		err = l.Plan(ctx, manifest)
	}
	if err != nil {
		return done, err
	}
	first, last, err := l.Ledger.Rows(ctx, name)
	if err != nil {
		return done, err
	}
	done, err = Submit(ctx, d, name, NeedsOf(l.Lot), first, last)
	done.Lot, done.Devices = name, l.Devices
	return done, err
}

// ServeOptions say how a station works chunks.
type ServeOptions struct {
	Station   station.Options // Shared is set by Serve
	Lot       string          // works on this lot alone; "" means on all
	UntilDone bool
	Times     Times
	// Settled is told how a lot stands when nothing of it is left to do here.
	Settled func(station.Outcome)
}

// Serve works chunks until ctx ends or, with UntilDone, nothing is left. Two
// workers under one station's name or with one folder are refused.
func Serve(ctx context.Context, o ServeOptions) error {
	o.Station.Shared = true
	cfg, err := o.Station.Settings.For(nil)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if o.Station.Hooks.LogTo != nil {
		log = logs.New(cfg.Log, o.Station.Hooks.LogTo)
	}
	d, err := openDatabase(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer d.Close()
	known, err := station.OpenLedger(ctx, cfg)
	if err != nil {
		return err
	}
	defer known.Close()
	me, lock, err := join(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := known.Beat(ctx, me); err != nil && !errors.Is(err, ledger.ErrRetired) {
		return stationFault(err)
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	if o.Station.Drain != nil { // then steps under way end, and no other begins
		drain := o.Station.Drain()
		o.Station.Drain = func() <-chan struct{} { return drain }
		go func() {
			select {
			case <-drain:
				stop()
			case <-working.Done():
			}
		}()
	}
	w := &Worker{
		Database: d, Ledger: known, Lots: &Here{Options: o.Station, Settled: o.Settled},
		Beat:    func(ctx context.Context) (int, string, error) { return beat(ctx, known, me) },
		Station: me.Name, Process: fmt.Sprintf("%s/%d", me.Boot, me.PID), Lot: o.Lot, Times: o.Times, Log: log,
		Retired: func(ctx context.Context, _ string) error { return destroyOwn(ctx, known, me.Name, log) },
	}
	err = w.Run(working, o.UntilDone)
	if err == nil && working.Err() != nil {
		err = fault.As(fault.Interrupted, context.Canceled)
	}
	if errors.Is(err, ErrRetired) {
		return fault.As(fault.Usage, pipeline.WithHint(err,
			"The keys that it still had are destroyed. A retired station doesn't come back: give this machine a new name in audit.station and an empty folder in `out`."))
	}
	return errors.Join(err, known.Quit(context.WithoutCancel(ctx), me))
}

// join takes the station's folder for this process, and says who this is.
func join(cfg *config.Config) (ledger.Station, io.Closer, error) {
	out, err := cfg.OutDir("")
	if err != nil {
		return ledger.Station{}, nil, err
	}
	if cfg.Out == "" {
		out = filepath.Dir(out + string(filepath.Separator) + "x")
	}
	if err := files.MakeDirs(out); err != nil {
		return ledger.Station{}, nil, err
	}
	lock, err := files.Lock(filepath.Join(out, ".keymill-worker.lock"), "the folder "+out)
	if err != nil {
		return ledger.Station{}, nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return ledger.Station{}, nil, errors.Join(err, lock.Close())
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ledger.Station{}, nil, errors.Join(err, lock.Close())
	}
	return ledger.Station{Name: cfg.Audit.Station, Boot: strings.TrimSpace(string(boot)), PID: os.Getpid(), Host: host, Out: out}, lock, nil
}

// beat records that this station lives. It returns how many do, and why this one
// was retired, "" if it wasn't.
func beat(ctx context.Context, known *ledger.Ledger, me ledger.Station) (alive int, retired string, err error) {
	err = known.Beat(ctx, me)
	if err != nil && !errors.Is(err, ledger.ErrRetired) {
		return 0, "", err
	}
	all, err := known.Stations(ctx)
	if err != nil {
		return 0, "", err
	}
	now, err := known.Now(ctx)
	if err != nil {
		return 0, "", err
	}
	for _, s := range all {
		switch {
		case !s.Retired.IsZero() && s.Name == me.Name:
			return 0, cmp.Or(s.RetiredReason, "no reason given"), nil
		case s.Retired.IsZero() && s.PID != 0 && now.Sub(s.Beat) < ledger.Silence:
			alive++
		}
	}
	return alive, "", nil
}

// stationFault gives the ledger's refusal of a second process its kind.
func stationFault(err error) error {
	if errors.Is(err, ledger.ErrStationTaken) {
		return fault.As(fault.Usage, pipeline.WithHint(err,
			"Give each station a name of its own in audit.station. If that process died, its name is free a minute after its last sign of life."))
	}
	return err
}
