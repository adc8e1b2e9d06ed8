package reports

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

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

	e := &export{src: src, lot: lot, dir: temp, opt: opt, formats: chosen}
	if err := e.write(ctx); err != nil {
		return Result{}, err
	}
	e.result.Dir = dir
	if opt.Record != nil {
		if err := opt.Record(ctx, e.event()); err != nil {
			return Result{}, fmt.Errorf("record the export: %w", err)
		}
	}
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
	dir     string // temporary
	opt     Options
	formats []format
	summary *Summary
	result  Result
}

func (e *export) write(ctx context.Context) error {
	var err error
	if e.summary, err = survey(ctx, e.src, e.lot); err != nil {
		return err
	}
	if e.opt.Signer != nil {
		if e.summary.KeyID, err = KeyID(e.opt.Signer.Public()); err != nil {
			return err
		}
	}
	if err := e.writeEvents(ctx); err != nil {
		return err
	}
	if err := e.writeDevices(ctx); err != nil {
		return err
	}
	if e.opt.Signer != nil {
		if err := e.writeImageSums(ctx); err != nil {
			return err
		}
	}
	totals, err := e.src.Totals(ctx, e.lot)
	if err != nil {
		return err
	}
	if totals != e.summary.Totals || e.result.Devices != e.summary.Balance.Rows {
		return pipeline.WithHint(fmt.Errorf("lot %s changed while it was exported", e.lot),
			"export it again when no run works on it")
	}
	e.result.Time = e.summary.Time
	if e.opt.Signer != nil {
		if err := e.seal(ctx); err != nil {
			return err
		}
	}
	e.result.Files, err = listFiles(e.dir)
	return err
}

// writeEvents writes events.jsonl, the lot's events verbatim, where it is
// wanted, gathers the statistics, and with a signer the logs.
func (e *export) writeEvents(ctx context.Context) error {
	out, err := e.openEvents()
	if err != nil {
		return storage(err)
	}
	defer out.Abort()
	pass := &eventPass{lot: e.lot, dir: e.dir, each: func(stored pipeline.StoredEvent) error {
		line, err := parseEvent(stored.Canonical)
		if err != nil {
			return fmt.Errorf("station %s, seq %d: %w", stored.Station, stored.Seq, err)
		}
		e.summary.Stats.add(line)
		if line.Time.After(e.summary.Time) {
			e.summary.Time = line.Time.UTC()
		}
		e.result.Events++
		_, _ = out.Write(stored.Canonical) // a bufio.Writer keeps its error
		return out.WriteByte('\n')
	}}
	defer pass.close()
	lots := e.lot
	if e.opt.Signer != nil {
		lots = "" // the log is the station's, not the lot's
	}
	if err := pass.run(ctx, e.src, lots); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return storage(err)
	}
	return e.writeLogs(ctx, pass.logs)
}

// openEvents returns where events go: nowhere, unless a format asks for them.
func (e *export) openEvents() (*outFile, error) {
	if e.has("jsonl") {
		return createFile(e.dir, fileEvents)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return &outFile{bufio.NewWriter(null), null}, nil
}

// writeDevices hands every record to every chosen format, in one pass.
func (e *export) writeDevices(ctx context.Context) error {
	var writers []deviceWriter
	defer func() {
		for _, w := range writers {
			w.Abort()
		}
	}()
	for _, f := range e.formats {
		w, err := f.open(e.dir, e.summary)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		writers = append(writers, w)
	}
	for r, err := range e.src.Records(ctx, e.lot) {
		if err != nil {
			return fmt.Errorf("records of lot %s: %w", e.lot, err)
		}
		e.result.Devices++
		for i, w := range writers {
			if err := w.Device(r); err != nil {
				return fmt.Errorf("%s, row %d: %w", e.formats[i].name, r.Row, err)
			}
		}
	}
	for i, w := range writers {
		if err := w.Close(); err != nil {
			return fmt.Errorf("%s: %w", e.formats[i].name, err)
		}
	}
	return nil
}

func (e *export) has(name string) bool {
	for _, f := range e.formats {
		if f.name == name {
			return true
		}
	}
	return false
}

// event is what the ledger shall remember of this export.
func (e *export) event() pipeline.Event {
	facts := []pipeline.Attr{}
	if e.result.Checkpoint != nil {
		facts = append(facts, pipeline.Attr{Name: factCheckpoint, Value: string(e.result.Checkpoint)})
	}
	for _, f := range e.result.Files {
		if f.Name == fileStatement {
			facts = append(facts, pipeline.Attr{Name: "statement_sha256", Value: f.SHA256})
		}
	}
	return pipeline.Event{Station: e.opt.Station, Lot: e.lot, Action: pipeline.ActionExport, Facts: facts}
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

// listFiles returns the files below dir with their hashes, by name.
func listFiles(dir string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		n, sum, err := hashFile(path)
		files = append(files, File{filepath.ToSlash(rel), n, sum})
		return err
	})
	return files, err
}

// hashFile returns a file's length and its SHA-256 in hexadecimal.
func hashFile(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}
