package reports

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"keymill/pipeline"
)

// Export writes a lot's bundle to the folder dir. It is written to a temporary
// folder beside dir and renamed when it is complete, so that under dir there is
// never half a bundle. Folders are 0700, files 0600. The same ledger gives the
// same bytes, but for signatures of ECDSA keys, which are random. A lot that
// changes while it is exported is an error.
func Export(ctx context.Context, src Source, lot, dir string, opt Options) (Result, error) {
	chosen, err := chooseFormats(opt.Formats)
	if err != nil {
		return Result{}, err
	}
	if opt.Signer != nil {
		if chosen, err = withEvidence(chosen, opt); err != nil {
			return Result{}, err
		}
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return Result{}, err
	}
	if err := checkTarget(dir, opt.Replace); err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return Result{}, storage(err)
	}
	temp, release, err := makePartial(dir)
	if err != nil {
		return Result{}, storage(err)
	}
	defer release()

	e := &export{src: src, lot: lot, out: &bundleDir{dir: temp}, opt: opt, formats: chosen}
	if err := e.write(ctx); err != nil {
		return Result{}, err
	}
	e.result.Dir = dir
	return e.result, publish(temp, dir)
}

// storage marks an error of the disk as the environment's.
func storage(err error) error {
	return &pipeline.Outage{Part: pipeline.PartStorage, Err: fmt.Errorf("export: %w", err),
		Hint: "check that the folder exists, is writable and has room"}
}

// export is one export under way.
type export struct {
	src     Source
	lot     string
	out     *bundleDir
	opt     Options
	formats []format
	summary *Summary
	result  Result
	// Of the events.
	stats Stats
	last  time.Time
	logs  []LogHead
}

func (e *export) write(ctx context.Context) error {
	if err := e.read(ctx); err != nil {
		return err
	}
	if err := e.writeDevices(ctx); err != nil {
		return err
	}
	totals, err := e.src.Totals(ctx, e.lot)
	if err != nil {
		return err
	}
	if totals != e.summary.Totals || e.result.Devices != e.summary.Balance.Rows {
		return pipeline.WithHint(fmt.Errorf("lot %s changed while it was exported", e.lot),
			"export it again when no run works on it")
	}
	if e.opt.Signer != nil {
		if err := e.seal(ctx); err != nil {
			return err
		}
	}
	e.result.Files = e.out.list()
	return nil
}

// read goes through the lot's records for what every format shows, and at the
// same time through the events.
func (e *export) read(ctx context.Context) error {
	work, within := errgroup.WithContext(ctx)
	work.Go(func() (err error) {
		e.summary, err = survey(within, e.src, e.lot)
		return err
	})
	work.Go(func() error { return e.writeEvents(within) })
	if err := work.Wait(); err != nil {
		return err
	}
	s := e.summary
	s.Stats, s.Logs = e.stats, e.logs
	if e.last.After(s.Time) {
		s.Time = e.last.UTC()
	}
	e.result.Time = s.Time
	if e.opt.Signer == nil {
		return nil
	}
	var err error
	s.KeyID, err = KeyID(e.opt.Signer.Public())
	return err
}

// writeEvents gathers the statistics. With a signer it writes events.jsonl and the
// logs; without one events.jsonl is written where it is wanted.
func (e *export) writeEvents(ctx context.Context) error {
	if e.opt.Signer != nil {
		return e.writeBooks(ctx, e.src)
	}
	var out *outFile
	if e.has("jsonl") {
		var err error
		if out, err = e.out.create(fileEvents); err != nil {
			return storage(err)
		}
		defer out.Abort()
	}
	for stored, err := range e.src.Events(ctx, e.lot) {
		if err != nil {
			return fmt.Errorf("events of lot %s: %w", e.lot, err)
		}
		e.result.Events++
		if out != nil {
			_, _ = out.Write(stored.Canonical) // a bufio.Writer keeps its error
			_ = out.WriteByte('\n')
		}
		if err := e.event(stored); err != nil {
			return err
		}
	}
	if out == nil {
		return nil
	}
	if err := out.Close(); err != nil {
		return storage(err)
	}
	return nil
}

// event takes one event of the lot for the statistics.
func (e *export) event(stored pipeline.StoredEvent) error {
	line, err := parseEvent(stored.Canonical)
	if err != nil {
		return fmt.Errorf("station %s, seq %d: %w", stored.Station, stored.Seq, err)
	}
	e.stats.add(line)
	if line.Time.After(e.last) {
		e.last = line.Time
	}
	return nil
}

// writeDevices hands every record to every chosen format, in one pass over the
// ledger. The formats work at the same time; batches wait for the slowest.
func (e *export) writeDevices(ctx context.Context) error {
	formats := e.formats
	if e.opt.Signer != nil {
		formats = append(slices.Clone(formats), format{"images", []string{fileImages}, openImageSums})
	}
	work, within := errgroup.WithContext(ctx)
	var ins []chan<- []*pipeline.Record
	for _, f := range formats {
		in := make(chan []*pipeline.Record, aheadBatches)
		ins = append(ins, in)
		work.Go(func() error {
			if err := f.write(within, e.out, e.summary, in); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			return nil
		})
	}
	work.Go(func() error {
		if err := readAhead(within, e.records(within), ins...); err != nil {
			return fmt.Errorf("records of lot %s: %w", e.lot, err)
		}
		return nil
	})
	return work.Wait()
}

// records yields the lot's records and counts them.
func (e *export) records(ctx context.Context) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		for r, err := range e.src.Records(ctx, e.lot) {
			e.result.Devices++
			if !yield(r, err) {
				return
			}
		}
	}
}

func (e *export) has(name string) bool {
	for _, f := range e.formats {
		if f.name == name {
			return true
		}
	}
	return false
}

// withEvidence adds what a signed bundle always has.
func withEvidence(chosen []format, opt Options) ([]format, error) {
	if err := checkSigningKey(opt.Signer.Public()); err != nil {
		return nil, err
	}
	if opt.Station == "" {
		return nil, pipeline.WithHint(errors.New("a signed export needs the station's name"), "set audit.station")
	}
	for _, f := range formats() {
		if f.name == "jsonl" && !slices.ContainsFunc(chosen, func(c format) bool { return c.name == f.name }) {
			chosen = append(chosen, f)
		}
	}
	return chosen, nil
}
