package station

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Restored is what putting a copy of the ledger back came to.
type Restored struct {
	Ledger string        `json:"ledger"`
	Aside  string        `json:"aside,omitempty"` // what was there before
	Lots   []RestoredLot `json:"lots"`
	// Restarted is how many logs go on under their next epoch, as this station had
	// signed more of them than the ledger has now.
	Restarted int `json:"logs_restarted,omitempty"`
}

// RestoredLot is what was found of one lot that the copy lacked.
type RestoredLot struct {
	Lot       string `json:"lot"`
	Adopted   int    `json:"adopted"`   // keys that the server knows
	Destroyed int    `json:"destroyed"` // keys that nobody knows
	Units     int    `json:"units"`     // rebuilt from the pack's hand-out marks
	Unclear   int    `json:"unclear"`   // keys left alone: the server knows two of one device
	Foreign   int    `json:"foreign"`   // keys left alone: of devices that the lot doesn't have
	Absent    bool   `json:"absent"`    // its folder is not on this machine
}

// Changed reports whether anything was found.
func (r *RestoredLot) Changed() bool {
	return r.Adopted+r.Destroyed+r.Units+r.Unclear+r.Foreign > 0
}

// Restore puts a copy of the ledger back: it looks at what lies in the folders of
// this station's lots, asks the server about each key that the copy doesn't know,
// and only when all that is answered changes anything. What was there before is
// kept beside it. With file "" the ledger that is there stays, and what lies here
// is taken up: for a database that was restored from a dump, and for a restore
// that was interrupted.
func Restore(ctx context.Context, o Options, file string) (done Restored, err error) {
	cfg, err := o.Settings.For(nil)
	if err != nil {
		return done, err
	}
	done.Ledger = cfg.Ledger
	database := config.IsDatabaseURL(cfg.Ledger)
	if database {
		done.Ledger = "the database"
		if file != "" {
			return done, fault.As(fault.Usage, pipeline.WithHint(errors.New("a ledger in PostgreSQL is not put back from a file by keymill"),
				"Restore the dump with pg_restore or psql, then run `keymill ledger restore` without a file."))
		}
	}
	open := cfg.Ledger
	if file != "" {
		open = cfg.Ledger + ".restoring"
		if err := copyLedger(file, open); err != nil {
			return done, err
		}
		defer removeLedger(open)
	} else if !database {
		if _, err := os.Stat(open); err != nil {
			return done, fault.StorageOutage(pipeline.WithHint(fmt.Errorf("there is no ledger %s", open), "Name the copy that is to be put back: `keymill ledger restore FILE`."))
		}
	}
	found, known, err := surveyAll(ctx, o, cfg, open)
	if err != nil {
		return done, errors.Join(err, closeSurveys(found, known))
	}
	if file != "" {
		// What was found is looked for again in the ledger's place: its files have
		// new names then.
		if err := closeSurveys(found, known); err != nil {
			return done, err
		}
		if done.Aside, err = swapLedger(open, cfg.Ledger); err != nil {
			return done, err
		}
		if found, known, err = surveyAll(ctx, o, cfg, cfg.Ledger); err != nil {
			return done, errors.Join(err, closeSurveys(found, known))
		}
	}
	// Before anything is appended: what follows belongs to the next epoch.
	if _, err = os.Stat(headsPath(cfg)); err == nil {
		done.Restarted, err = RestartLogs(ctx, cfg, known, "an older copy of the ledger was put back")
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // this station has signed nothing
	} else {
		err = fault.StorageOutage(err)
	}
	if err == nil {
		err = applyAll(ctx, cfg, known, found, file, &done)
	}
	return done, errors.Join(err, closeSurveys(found, known))
}

// RestoreLost plans a lot anew whose ledger is gone for good, and takes up what
// lies in its folder.
func RestoreLost(ctx context.Context, o Options, manifest, name string) (done Restored, err error) {
	l, err := Open(ctx, o, name)
	if err != nil {
		return done, err
	}
	done.Ledger = l.Config.Ledger
	if !l.planned {
		l.restoring = true
		err = l.Plan(ctx, manifest)
	}
	if err := files.Closing(l, err); err != nil {
		return done, err
	}
	return Restore(ctx, o, "")
}

// surveyAll looks at all lots of this station that the ledger at path has.
func surveyAll(ctx context.Context, o Options, cfg *config.Config, path string) ([]*survey, *ledger.Ledger, error) {
	known, err := ledger.Open(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	lots, err := known.Lots(ctx)
	if err != nil {
		return nil, known, err
	}
	since, err := known.LastEvent(ctx)
	if err != nil {
		return nil, known, err
	}
	var found []*survey
	for _, lot := range lots {
		parts, err := known.LotStations(ctx, lot.Name)
		if err != nil {
			return found, known, err
		}
		for _, part := range parts {
			if part.Station != cfg.Audit.Station {
				continue
			}
			lot.Out = part.Out
			s, err := surveyLot(ctx, o, known, lot, since)
			if s != nil {
				found = append(found, s)
			}
			if err != nil {
				return found, known, fmt.Errorf("lot %s: %w", lot.Name, err)
			}
		}
	}
	return found, known, nil
}

// applyAll records what was found, destroys what nobody knows, and says so.
func applyAll(ctx context.Context, cfg *config.Config, known *ledger.Ledger, found []*survey, file string, done *Restored) error {
	sum, adopted, destroyed, units := "", 0, 0, 0
	if file != "" {
		var err error
		if sum, err = files.SHA256(ctx, file); err != nil {
			return fault.StorageOutage(err)
		}
	}
	for _, s := range found {
		adopted += len(s.adopt)
		destroyed += len(s.strays) + len(s.wipe)
		units += len(s.units)
	}
	if file != "" || adopted+destroyed+units > 0 {
		_, err := known.Append(ctx, pipeline.Event{Station: cfg.Audit.Station, Action: pipeline.ActionRestore, Facts: Facts(map[string]string{
			"copy_sha256": sum, "adopted": strconv.Itoa(adopted), "destroyed": strconv.Itoa(destroyed), "units": strconv.Itoa(units),
			"operator": cfg.Audit.Operator,
		})})
		if err != nil {
			return err
		}
	}
	for _, s := range found {
		if err := s.apply(ctx); err != nil {
			return err
		}
		done.Lots = append(done.Lots, s.result)
	}
	return nil
}

func closeSurveys(found []*survey, known *ledger.Ledger) error {
	var errs []error
	for _, s := range found {
		errs = append(errs, s.close())
	}
	if known != nil {
		errs = append(errs, known.Close())
	}
	return errors.Join(errs...)
}

// suffixes are those of a SQLite database's files.
var suffixes = []string{"", "-wal", "-shm"}

// copyLedger copies a ledger's file, with the changes that are not in it yet.
func copyLedger(from, to string) error {
	removeLedger(to)
	for _, suffix := range suffixes[:2] {
		if err := copyFile(from+suffix, to+suffix); err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
			return fault.StorageOutage(fmt.Errorf("the copy %s: %w", from, err))
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// removeLedger removes a copy that was worked on, and the copies that were made
// when it was brought up to date.
func removeLedger(path string) {
	for _, suffix := range suffixes {
		_ = os.Remove(path + suffix)
	}
	before, _ := filepath.Glob(path + ".before-*")
	for _, name := range before {
		_ = os.Remove(name)
	}
}

// swapLedger puts the copy in the ledger's place, and what was there aside.
func swapLedger(copied, path string) (aside string, err error) {
	if _, err := os.Lstat(path); err == nil {
		aside = path + ".replaced-" + time.Now().UTC().Format("20060102T150405Z")
		// The log of changes first: without its database it is nothing, with a
		// database of another time it would be damage.
		for _, suffix := range []string{"-shm", "-wal", ""} {
			if err := os.Rename(path+suffix, aside+suffix); err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
				return aside, fault.StorageOutage(err)
			}
		}
	}
	if err := os.Rename(copied, path); err != nil {
		return aside, fault.StorageOutage(err)
	}
	if err := files.SyncDir(filepath.Dir(path)); err != nil {
		return aside, fault.StorageOutage(err)
	}
	return aside, nil
}
