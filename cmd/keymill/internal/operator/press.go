package operator

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
)

// mediaPress writes images of a lot's golden image and pack.
type mediaPress struct {
	golden *imaging.Golden
	pack   *imaging.PackReader
	marks  *station.HandOuts
}

func (p *mediaPress) Need() int64 { return p.golden.Size() }

// overlay reads the device's own bytes; whoever asked wipes them.
func (p *mediaPress) overlay(rec *pipeline.Record) (*imaging.Overlay, error) {
	key, overlay, err := p.pack.Read(imaging.Ref(rec.Pack))
	if err != nil {
		return nil, &WriteError{Code: "pack", Err: fmt.Errorf("read the pack: %w", err)}
	}
	if key != rec.Identity.Sum() {
		return nil, &WriteError{Code: "pack", Err: fmt.Errorf("the pack entry of %s belongs to another device", rec.Identity)}
	}
	return overlay, nil
}

func (p *mediaPress) Look(ctx context.Context, path string, rec *pipeline.Record) (Contents, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return Contents{Medium: "file " + path}, nil // a trial's file, which the writing makes
	}
	medium, err := imaging.OpenMedium(path)
	if err != nil {
		return Contents{}, err
	}
	defer medium.Close()
	return p.contents(ctx, medium, rec)
}

// contents says what an open medium holds.
func (p *mediaPress) contents(ctx context.Context, medium *imaging.Medium, rec *pipeline.Record) (Contents, error) {
	var overlay *imaging.Overlay
	if rec != nil && !rec.Pack.IsZero() {
		var err error
		if overlay, err = p.overlay(rec); err != nil {
			return Contents{}, err
		}
		defer station.Wipe(overlay)
	}
	found, err := medium.Contents(ctx, p.golden, overlay)
	if err != nil {
		return Contents{}, err
	}
	id := medium.Identity()
	c := Contents{Medium: id.String(), Bytes: id.Bytes, Marker: found.Marker, Detail: found.Detail}
	switch found.Kind {
	case imaging.MediumBlank, imaging.MediumFAT:
		c.Holds = HoldsNothing
	case imaging.MediumUnit:
		c.Holds = HoldsMarker
	case imaging.MediumImage:
		c.Holds = HoldsOwn
	case imaging.MediumGolden:
		c.Holds = HoldsGolden
	default:
		c.Holds = HoldsForeign
	}
	return c, nil
}

func (p *mediaPress) Write(ctx context.Context, job WriteJob) error {
	overlay, err := p.overlay(job.Unit.Record)
	if err != nil {
		return err
	}
	defer station.Wipe(overlay)
	medium, err := imaging.OpenMedium(job.Path)
	if err != nil {
		return &refusal{text: "it can't be opened: " + err.Error()}
	}
	defer medium.Close()
	var known *pipeline.Record
	if job.Resumed {
		known = job.Unit.Record
	}
	found, err := p.contents(ctx, medium, known)
	if err != nil {
		return &refusal{text: "it can't be read: " + err.Error()}
	}
	if err := job.Check(found); err != nil {
		return err
	}
	if err := job.Begin(ctx, found.Medium); err != nil {
		return err
	}
	var once sync.Once
	_, err = medium.Write(ctx, p.golden, overlay, imaging.WriteMediumOptions{
		Marker: job.Unit.Marker, Resumed: job.Resumed,
		BeforeKey: func(ctx context.Context) error {
			return p.marks.Mark(ctx, job.Unit.Record, job.Unit.Number, job.Unit.Marker, found.Medium)
		},
		Progress: func(at imaging.MediumProgress) {
			once.Do(job.First)
			job.Progress(at.Phase, at.Done, at.Total)
		},
	})
	failed, ok := errors.AsType[*imaging.MediumError](err)
	switch {
	case ok && failed.Code == "refused":
		return &WriteError{Code: "pack", KeyLeft: failed.KeyLeft, Err: err}
	case ok:
		return &WriteError{Code: failed.Code, KeyLeft: failed.KeyLeft, Err: err}
	case err != nil:
		return &WriteError{Code: "write", KeyLeft: true, Err: err}
	}
	once.Do(job.First) // an image that is smaller than a step
	return nil
}

func (p *mediaPress) Wipe(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	medium, err := imaging.OpenMedium(path)
	if err != nil {
		return err
	}
	defer medium.Close()
	template, err := p.template(ctx)
	if err != nil {
		return err
	}
	return medium.Wipe(template)
}

// template is the plan of the lot's injections, which the pack holds.
func (p *mediaPress) template(ctx context.Context) (*imaging.Template, error) {
	for entry, err := range p.pack.Entries(ctx) {
		if err != nil {
			return nil, err
		}
		if entry.Destroyed || entry.Damaged {
			continue
		}
		_, overlay, err := p.pack.Read(entry.Ref)
		if err != nil {
			return nil, err
		}
		defer station.Wipe(overlay)
		return overlay.Template, nil
	}
	return nil, errors.New("the pack has no entry that says where keys lie")
}

func (p *mediaPress) File(ctx context.Context, dir string, u *Unit) (path, sum string, err error) {
	rec := u.Record
	overlay, err := p.overlay(rec)
	if err != nil {
		return "", "", err
	}
	defer station.Wipe(overlay)
	if err := p.marks.Mark(ctx, rec, u.Number, u.Marker, "program"); err != nil {
		return "", "", err
	}
	path = filepath.Join(dir, "image"+filepath.Ext(p.golden.Path()))
	if _, err := imaging.WriteRaw(ctx, p.golden, overlay, path); err != nil {
		return "", "", errors.Join(err, p.Shred(path))
	}
	digest := sha256.New()
	if err := imaging.Stream(ctx, p.golden, overlay, digest); err != nil {
		return "", "", errors.Join(err, p.Shred(path))
	}
	return path, hex.EncodeToString(digest.Sum(nil)), nil
}

// Shred overwrites what a file holds, where it holds something, and removes it.
func (p *mediaPress) Shred(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	noise := make([]byte, 1<<20)
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return err
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = from; at < to; at += int64(len(noise)) {
			if _, err := rand.Read(noise); err != nil {
				return err
			}
			if _, err := f.WriteAt(noise[:min(int64(len(noise)), to-at)], at); err != nil {
				return err
			}
		}
		at = to
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Remove(path)
}

// Stream writes the image to a named pipe once somebody reads from it.
func (p *mediaPress) Stream(ctx context.Context, path string, u *Unit) error {
	rec := u.Record
	overlay, err := p.overlay(rec)
	if err != nil {
		return err
	}
	defer station.Wipe(overlay)
	if err := p.marks.Mark(ctx, rec, u.Number, u.Marker, "program"); err != nil {
		return err
	}
	pipe, err := openPipe(ctx, path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = pipe.SetWriteDeadline(time.Unix(1, 0)) }) // ends a write that nobody reads
	defer stop()
	err = imaging.Stream(ctx, p.golden, overlay, struct{ io.Writer }{pipe})
	return errors.Join(err, pipe.Close())
}

// openPipe waits for a reader, and returns the pipe's end to write to.
func openPipe(ctx context.Context, path string) (*os.File, error) {
	for {
		pipe, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if !errors.Is(err, unix.ENXIO) { // ENXIO: nobody reads yet
			return pipe, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
