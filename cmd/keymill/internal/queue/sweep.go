package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"keymill/pipeline/ledger"
)

// sqlJobs finds for each range of a lot the highest generation and whether a
// job of it still is to run. A job that began longer ago than $2 has no worker
// any more, whatever its state says.
const sqlJobs = `SELECT (args->>'first')::int, (args->>'last')::int, args->>'queue', MAX((args->>'generation')::int),
	BOOL_OR(state IN ('available', 'pending', 'retryable', 'scheduled')
		OR state = 'running' AND attempted_at > clock_timestamp() - make_interval(secs => $2))
	FROM river_job WHERE kind = '` + chunkKind + `' AND args->>'lot' = $1 GROUP BY 1, 2, 3`

// rangeKey names the jobs of one range in one queue.
type rangeKey struct {
	first, last int
	queue       string
}

type rangeJobs struct {
	generation int
	alive      bool
}

// sweep enqueues again what is loose and has no job, under its next generation.
// needs is the lot's queue. It returns how many chunks it enqueued. Two
// stations that sweep at once enqueue the same generation, which River takes
// once.
func (d *Database) sweep(ctx context.Context, client *river.Client[pgx.Tx], lot, needs string, loose []ledger.Loose, dead time.Duration) (int, error) {
	if len(loose) == 0 {
		return 0, nil
	}
	jobs, err := d.jobs(ctx, lot, dead)
	if err != nil {
		return 0, err
	}
	var again []river.InsertManyParams
	for _, l := range loose {
		queue := needs
		if l.Station != "" {
			queue = stationQueue(l.Station)
		}
		at := jobs[rangeKey{l.First, l.Last, queue}]
		if at.alive {
			continue
		}
		again = append(again, river.InsertManyParams{Args: Chunk{
			Lot: lot, First: l.First, Last: l.Last, Generation: at.generation + 1, Queue: queue}})
	}
	enqueued := 0
	for len(again) > 0 {
		n := min(len(again), submitBatch)
		results, err := client.InsertMany(ctx, again[:n])
		if err != nil {
			return enqueued, fmt.Errorf("queue: enqueue again: %w", err)
		}
		for _, r := range results {
			if !r.UniqueSkippedAsDuplicate {
				enqueued++
			}
		}
		again = again[n:]
	}
	return enqueued, nil
}

// jobs reads what River has of a lot.
func (d *Database) jobs(ctx context.Context, lot string, dead time.Duration) (map[rangeKey]rangeJobs, error) {
	rows, err := d.pool.Query(ctx, sqlJobs, lot, dead.Seconds())
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	found := map[rangeKey]rangeJobs{}
	var key rangeKey
	var at rangeJobs
	_, err = pgx.ForEachRow(rows, []any{&key.first, &key.last, &key.queue, &at.generation, &at.alive}, func() error {
		found[key] = at
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return found, nil
}

// lots returns the names of all lots that have jobs.
func (d *Database) lots(ctx context.Context) (map[string]bool, error) {
	rows, err := d.pool.Query(ctx, `SELECT DISTINCT args->>'lot' FROM river_job WHERE kind = '`+chunkKind+`'`)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	found := map[string]bool{}
	for _, name := range names {
		found[name] = true
	}
	return found, err
}
