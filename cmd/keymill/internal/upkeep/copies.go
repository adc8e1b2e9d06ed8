package upkeep

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline/ledger"
)

// copies are the ledger's copies in a folder, named after it and the time, so
// that the order of their names is that of their age.
type copies struct {
	folder, base, ext string
	keep              int
}

// copied is a copy that was made. Its JSON is in that of `ledger upkeep --json`.
type copied struct {
	File    string   `json:"file"`
	Bytes   int64    `json:"bytes"`
	Kept    int      `json:"kept"`
	Removed []string `json:"removed"`
}

func newCopies(cfg *config.Config) copies {
	ext := filepath.Ext(cfg.Ledger)
	return copies{cfg.Backup.Folder, strings.TrimSuffix(filepath.Base(cfg.Ledger), ext), ext, cfg.Backup.Keep}
}

// copyTime is ISO 8601's basic form, which needs no quoting anywhere.
const copyTime = "20060102T150405Z"

// add makes a copy, reads it back, and then lets the oldest ones go.
func (c copies) add(ctx context.Context, known *ledger.Ledger, now time.Time, dry bool) (*copied, error) {
	made := &copied{File: filepath.Join(c.folder, c.base+"-"+now.UTC().Format(copyTime)+c.ext)}
	if !dry {
		if err := c.write(ctx, known, made); err != nil {
			return nil, err
		}
	}
	names, err := c.names()
	if err != nil {
		return made, fault.StorageOutage(err)
	}
	if dry {
		names = append(names, filepath.Base(made.File))
	}
	made.Removed = names[:max(0, len(names)-c.keep)]
	made.Kept = len(names) - len(made.Removed)
	if dry {
		return made, nil
	}
	for _, name := range made.Removed {
		if err := os.Remove(filepath.Join(c.folder, name)); err != nil {
			return made, fault.StorageOutage(err)
		}
	}
	return made, nil
}

// write makes a copy that passes the check, or none.
func (c copies) write(ctx context.Context, known *ledger.Ledger, made *copied) error {
	if err := os.MkdirAll(c.folder, 0o700); err != nil {
		return fault.StorageOutage(err)
	}
	if err := known.Backup(ctx, made.File); err != nil {
		return err
	}
	err := checkCopy(ctx, made.File)
	if err != nil {
		_ = os.Remove(made.File) // the error tells more than a second one would
		return err
	}
	info, err := os.Stat(made.File)
	if err != nil {
		return fault.StorageOutage(err)
	}
	made.Bytes = info.Size()
	return nil
}

func checkCopy(ctx context.Context, path string) error {
	read, err := ledger.Open(ctx, path)
	if err != nil {
		return err
	}
	found, err := Check(ctx, read)
	if err == nil && !found.OK {
		err = Unsound(found)
	}
	return files.Closing(read, err)
}

// names returns the copies in the folder, the oldest first; other files there
// are left alone.
func (c copies) names() ([]string, error) {
	entries, err := os.ReadDir(c.folder)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	ours := regexp.MustCompile(`^` + regexp.QuoteMeta(c.base) + `-\d{8}T\d{6}Z` + regexp.QuoteMeta(c.ext) + `$`)
	names := []string{}
	for _, entry := range entries {
		if entry.Type().IsRegular() && ours.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// newest returns when the newest copy was made, the zero time for none.
func (c copies) newest() (time.Time, error) {
	names, err := c.names()
	if err != nil || len(names) == 0 {
		return time.Time{}, err
	}
	stamp := strings.TrimSuffix(strings.TrimPrefix(names[len(names)-1], c.base+"-"), c.ext)
	return time.Parse(copyTime, stamp)
}
