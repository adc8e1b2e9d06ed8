package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Ledger is what a worker asks the shared ledger. All methods may be called at
// once; times are the database's.
type Ledger interface {
	// Claim leases the rows' planned devices, and those that the lease's station
	// staged itself, for d, and returns the records that the lease then holds. The
	// part of a lease before its first slash names the station.
	Claim(ctx context.Context, lot string, first, last int, lease string, d time.Duration) ([]*pipeline.Record, error)
	// Renew lets a lease run for d from now and returns how many devices it holds.
	Renew(ctx context.Context, lot string, first, last int, lease string, d time.Duration) (int, error)
	// Yield ends a lease.
	Yield(ctx context.Context, lot string, first, last int, lease string) error
	// Loose returns the chunks of the lot with devices that are to be worked on
	// and that no lease holds.
	Loose(ctx context.Context, lot string, rows int) ([]ledger.Loose, error)
	// Due reports whether the lot has devices that the station could work on now,
	// or once a lease on them ran out.
	Due(ctx context.Context, lot, station string) (bool, error)
	// Lots returns all lots.
	Lots(ctx context.Context) ([]pipeline.Lot, error)
}

// Carried is what a lot at this station can do with claimed records.
type Carried interface {
	// CarryHeld is pipeline.Line's. A *pipeline.Outage says that this station can't
	// go on.
	CarryHeld(ctx context.Context, records iter.Seq2[*pipeline.Record, error], hold pipeline.Hold) error
	// Share says among how many stations the server's requests are to be shared.
	Share(stations int)
	// Close writes down that this station's run ended.
	Close(ctx context.Context) error
}

// Lots opens lots at this station, once each.
type Lots interface {
	// Open opens a lot. A *RefusedError says that this station has another golden
	// image or other settings than the lot was planned with.
	Open(ctx context.Context, lot pipeline.Lot) (Carried, error)
	// Settle is called when nothing of the lot is left to do at this station: it
	// signs the station's head, and closes the lot where all stations have.
	Settle(ctx context.Context, lot pipeline.Lot) error
}

// RefusedError says what a station lacks for a lot.
type RefusedError struct {
	Lot     string
	Differs string // what differs, in words
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("this station can't work on lot %s: %s", e.Lot, e.Differs)
}

// ErrRetired says that somebody retired this station.
var ErrRetired = errors.New("this station was retired")

// Worker works chunks at one station.
type Worker struct {
	Database *Database
	Ledger   Ledger
	Lots     Lots
	// Beat records that the station lives. It returns how many stations do, and why
	// this one was retired, "" if it was not.
	Beat    func(ctx context.Context) (alive int, retired string, err error)
	Station string
	Process string // names this process among all of its station: boot id and process id
	Lot     string // works on this lot alone; "" means on all
	AtOnce  int    // chunks under way at once, default 2
	Times   Times
	Log     *slog.Logger
	// Retired is called once when the station finds itself retired, before Run
	// returns ErrRetired.
	Retired func(ctx context.Context, reason string) error

	client *river.Client[pgx.Tx]
	stop   context.CancelCauseFunc

	mu      sync.Mutex
	alive   int                // guarded by mu: stations that beat
	open    map[string]Carried // guarded by mu
	running map[string]int     // guarded by mu: chunks of a lot under way
	settled map[string]bool    // guarded by mu
	refused map[string]string  // guarded by mu: lots that this station can't work on, and why
	added   map[string]bool    // guarded by mu: queues that the client works
}

// Run works until ctx ends, an outage stops the station, or, with untilDone,
// until nothing is left that this station could do. It returns nil when it was
// asked to stop, and gives back the leases that it holds.
func (w *Worker) Run(ctx context.Context, untilDone bool) error {
	w.open, w.refused, w.added = map[string]Carried{}, map[string]string{}, map[string]bool{}
	w.alive, w.running, w.settled = 1, map[string]int{}, map[string]bool{}
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w.stop = stop
	if err := w.beat(within); err != nil {
		return err
	}
	if err := w.start(within); err != nil {
		return err
	}
	err := w.mind(within, untilDone)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*pipeline.Drain)
	defer cancel()
	stopErr := w.stopClient(ending)
	return errors.Join(err, stopErr, w.close(ending))
}

// stopClient waits for the jobs under way as long as a drained line may take, and
// then cuts them off.
func (w *Worker) stopClient(ctx context.Context) error {
	soft, cancel := context.WithTimeout(ctx, pipeline.Drain)
	defer cancel()
	if err := w.client.Stop(soft); err == nil {
		return nil
	}
	return w.client.StopAndCancel(ctx)
}

func (w *Worker) start(ctx context.Context) (err error) {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &chunkWorker{w: w}); err != nil {
		return err
	}
	own := stationQueue(w.Station)
	w.client, err = river.NewClient(riverpgxv5.New(w.Database.pool), &river.Config{
		Queues:               map[string]river.QueueConfig{own: {MaxWorkers: w.atOnce()}},
		Workers:              workers,
		JobTimeout:           (w.Times.Job + w.Times.Rescue) / 2, // chunkWorker ends it itself before that
		RescueStuckJobsAfter: w.Times.Rescue,
		MaxAttempts:          maxAttempts,
		// Lots are known by their jobs, the done ones included.
		CompletedJobRetentionPeriod: 90 * 24 * time.Hour,
		DiscardedJobRetentionPeriod: -1,
		RetryPolicy:                 soon{},
		FetchCooldown:               20 * time.Millisecond,
		FetchPollInterval:           500 * time.Millisecond,
		Logger:                      w.Database.log,
	})
	if err != nil {
		return err
	}
	// The client outlives ctx: Run stops it in its own order.
	return w.client.Start(context.WithoutCancel(ctx))
}

func (w *Worker) atOnce() int {
	if w.AtOnce > 0 {
		return w.AtOnce
	}
	return 2
}

// soon is the policy for jobs that ended with an error: another station may do
// better at once, and whoever failed has stopped or waits by itself.
type soon struct{}

func (soon) NextRetry(*rivertype.JobRow) time.Time { return time.Now().Add(5 * time.Second) }

// mind beats and sweeps until the work ends.
func (w *Worker) mind(ctx context.Context, untilDone bool) error {
	beat := time.NewTicker(w.Times.Beat)
	defer beat.Stop()
	sweep := time.NewTicker(w.Times.Sweep)
	defer sweep.Stop()
	for {
		done, err := w.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			w.Log.Warn("the queue was not swept", "reason", err)
		}
		if err == nil && done && untilDone {
			return nil
		}
		for swept := false; !swept; {
			select {
			case <-ctx.Done():
				if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
					return cause
				}
				return nil
			case <-beat.C:
				if err := w.beat(ctx); err != nil {
					return err
				}
			case <-sweep.C:
				swept = true
			}
		}
	}
}

// beat says that the station lives. A database that doesn't answer stops
// nothing: leases run out by themselves.
func (w *Worker) beat(ctx context.Context) error {
	alive, retired, err := w.Beat(ctx)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			w.Log.Warn("the heartbeat was not recorded", "reason", err)
		}
		return nil
	case retired == "":
		w.share(alive)
		return nil
	}
	if w.Retired != nil {
		if err := w.Retired(context.WithoutCancel(ctx), retired); err != nil {
			return errors.Join(ErrRetired, err)
		}
	}
	return fmt.Errorf("%w: %s", ErrRetired, retired)
}

// share tells the lots among how many stations they share the server.
func (w *Worker) share(alive int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alive = max(alive, 1)
	for _, c := range w.open {
		c.Share(w.alive)
	}
}

// sweep adds the queues of lots that this station can work on, enqueues again
// what is loose, and reports whether nothing is left that it could do.
func (w *Worker) sweep(ctx context.Context) (done bool, err error) {
	lots, err := w.queued(ctx)
	if err != nil {
		return false, err
	}
	done = true
	for _, lot := range lots {
		if w.Lot != "" && lot.Name != w.Lot {
			continue
		}
		due, err := w.Ledger.Due(ctx, lot.Name, w.Station)
		if err != nil {
			return false, err
		}
		if !due {
			if err := w.finish(ctx, lot); err != nil {
				return false, err
			}
			continue
		}
		if !w.serves(ctx, lot) {
			continue
		}
		done = false
		loose, err := w.Ledger.Loose(ctx, lot.Name, ChunkRows)
		if err != nil {
			return false, err
		}
		n, err := w.Database.sweep(ctx, w.client, lot.Name, NeedsOf(lot).Queue(), loose, w.Times.Lease)
		if err != nil {
			return false, err
		}
		if n > 0 {
			w.Log.Info("enqueued chunks again that nobody worked on", "lot", lot.Name, "chunks", n)
		}
	}
	return done, nil
}

// finish ends this station's run of a lot that has nothing left for it, and
// settles the lot, once: until there is something to do again.
func (w *Worker) finish(ctx context.Context, lot pipeline.Lot) error {
	w.mu.Lock()
	carried, busy, settled := w.open[lot.Name], w.running[lot.Name] > 0, w.settled[lot.Name]
	if !busy {
		delete(w.open, lot.Name)
		w.settled[lot.Name] = true
	}
	w.mu.Unlock()
	if busy || settled && carried == nil {
		return nil
	}
	if carried != nil { // the run's last event is in the log before its head is signed
		if err := carried.Close(ctx); err != nil {
			return err
		}
	}
	return w.Lots.Settle(ctx, lot)
}

// begin counts a chunk under way, so that its lot stays open; the returned
// function ends it.
func (w *Worker) begin(lot string) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[lot]++
	w.settled[lot] = false
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.running[lot]--
	}
}

// queued returns the open lots that have jobs.
func (w *Worker) queued(ctx context.Context) ([]pipeline.Lot, error) {
	names, err := w.Database.lots(ctx)
	if err != nil {
		return nil, err
	}
	lots, err := w.Ledger.Lots(ctx)
	return slices.DeleteFunc(lots, func(l pipeline.Lot) bool { return !l.Closed.IsZero() || !names[l.Name] }), err
}

// serves opens the lot where this station can work on it and listens to its
// queue; what it lacks is said once.
func (w *Worker) serves(ctx context.Context, lot pipeline.Lot) bool {
	if _, err := w.lot(ctx, lot); err != nil {
		return false
	}
	queue := NeedsOf(lot).Queue()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.added[queue] {
		return true
	}
	if err := w.client.Queues().Add(queue, river.QueueConfig{MaxWorkers: w.atOnce()}); err != nil {
		w.Log.Warn("the queue was not added", "queue", queue, "reason", err)
		return false
	}
	w.added[queue] = true
	return true
}

// lot returns the opened lot.
func (w *Worker) lot(ctx context.Context, lot pipeline.Lot) (Carried, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.open[lot.Name]; c != nil {
		return c, nil
	}
	if why, ok := w.refused[lot.Name]; ok {
		return nil, &RefusedError{lot.Name, why}
	}
	c, err := w.Lots.Open(ctx, lot)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		w.refused[lot.Name] = refused.Differs
		w.Log.Warn("this station can't work on the lot; others may", "lot", lot.Name, "differs", refused.Differs)
		return nil, err
	}
	if err != nil {
		w.stop(err)
		return nil, err
	}
	c.Share(w.alive)
	w.open[lot.Name] = c
	return c, nil
}

func (w *Worker) close(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, c := range w.open {
		errs = append(errs, c.Close(ctx))
	}
	return errors.Join(errs...)
}

// NeedsOf returns what a station must have for a lot.
func NeedsOf(lot pipeline.Lot) Needs {
	return Needs{Keys: lot.Keys, Algorithm: lot.Algorithm, Format: lot.Format,
		GoldenSHA256: lot.GoldenSHA256, InjectSHA256: lot.InjectSHA256}
}
