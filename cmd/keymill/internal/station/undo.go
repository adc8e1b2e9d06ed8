package station

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path/filepath"
	"sync"
	"time"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// undoing is a lot being taken back.
type undoing struct {
	*Lot
	pack  *imaging.Pack // nil where there is none
	token *kept         // nil where keys don't stay in one, or are left there
	stay  bool          // keys are left in their tokens
	id    int64         // of the run

	mu    sync.Mutex
	queue []*pipeline.Record // guarded by mu; handed to the server's part, in order
}

// Undone is what undoing a lot came to.
type Undone struct {
	Totals  pipeline.Totals
	Failed  int  // devices that could not be taken off the server; their keys are kept
	Stay    bool // keys were left in their HSM tokens
	Missing int  // keys that are not in the HSM token
	// Deleting are devices that the server is still deleting: how many, and the
	// first of them.
	Deleting      int
	DeletingFirst []VerifiedDevice
}

// UndoOptions say how a lot is taken back.
type UndoOptions struct {
	KeysStay bool // leave keys that stay in HSM tokens there
	// Wait is how long the server is waited for, which deletes devices in its own
	// time. Waiting is told how many are left; nil is allowed.
	Wait    time.Duration
	Waiting func(left int)
}

// Undo takes every device back that is not yet: server first, so that a key
// that still opens a door is never destroyed unseen.
func (l *Lot) Undo(ctx context.Context, o UndoOptions) (done Undone, err error) {
	if l.Server, err = l.opts.OpenServer(l.Config, l.Log); err != nil {
		return done, err
	}
	u := &undoing{Lot: l, stay: o.KeysStay && l.Keys == pipeline.KeysInToken}
	done.Stay = u.stay
	if !u.stay {
		if u.token, err = l.openKept(ctx); err != nil {
			return done, keysMayStay(ctx, err)
		}
		defer u.token.Close()
	}
	u.pack, err = imaging.OpenPack(PackPath(l.Lot))
	switch {
	case errors.Is(err, imaging.ErrNotPack), errors.Is(err, imaging.ErrPackDamaged):
		l.Log.Warn("the pack can't be read; keys that lay in it are not found", "reason", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return done, fault.StorageOutage(err)
	}
	if u.pack != nil {
		defer u.pack.Close()
	}
	for _, dir := range []string{l.Out, ImagesDir(l.Lot)} { // what killed runs left may hold keys
		if _, err := imaging.RemoveLeftovers(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return done, fault.StorageOutage(err)
		}
	}
	u.id, err = l.Ledger.Append(ctx, pipeline.Event{
		Station: l.Config.Audit.Station, Lot: l.Name, Action: pipeline.ActionRun, Reason: "undo",
		Facts: Facts(map[string]string{"operator": l.Config.Audit.Operator, "tool": "keymill " + build.Version(), "tool_sha256": build.Hash()}),
	})
	if err != nil {
		return done, err
	}
	if done.Failed, err = u.all(ctx); err != nil {
		return done, err
	}
	if done.Failed == 0 {
		// Its identifiers can be had again, but only by who asks for such.
		if _, err := l.Ledger.Deallocate(ctx, l.Name); err != nil {
			return done, err
		}
	}
	if u.token != nil {
		done.Missing = u.token.missing
	}
	if err := l.awaitDeleted(ctx, o, &done); err != nil {
		return done, err
	}
	done.Totals, err = l.Ledger.Totals(ctx, l.Name)
	return done, err
}

// awaitDeleted finds the devices that the server is still deleting, and waits
// for them as long as was asked.
func (l *Lot) awaitDeleted(ctx context.Context, o UndoOptions, done *Undone) error {
	var ids []string
	undone := 0
	for f, err := range l.Server.Lingering(ctx, undoneOf(ctx, l.Ledger, l.Name, &undone)) {
		if err != nil {
			return err
		}
		if f.Category != mender.CatDeleting {
			continue
		}
		if ids = append(ids, f.DeviceID); len(done.DeletingFirst) < maxOff {
			done.DeletingFirst = append(done.DeletingFirst, viewFinding(f))
		}
	}
	done.Deleting = len(ids)
	if o.Wait <= 0 || len(ids) == 0 {
		return nil
	}
	left, err := l.Server.AwaitDeleted(ctx, ids, o.Wait, o.Waiting)
	if done.Deleting = left; left == 0 {
		done.DeletingFirst = nil
	}
	return err
}

func (u *undoing) all(ctx context.Context) (failed int, err error) {
	for done, err := range u.Server.Undo(ctx, u.onServer(ctx)) {
		if err != nil {
			return failed, err
		}
		rec := u.next()
		if done.Removal == mender.Failed {
			failed++
			u.Log.Warn("cannot be taken off the server", "device", rec.Identity.Name(), "reason", done.Err)
			continue
		}
		if err := u.destroy(ctx, rec, string(done.Removal)); err != nil {
			return failed, err
		}
	}
	for rec, err := range u.Ledger.Records(ctx, u.Name, pipeline.Planned, pipeline.Failed) {
		if err != nil {
			return failed, err
		}
		if len(rec.PublicKey) > 0 {
			continue // it failed just now
		}
		if err := u.destroy(ctx, rec, "never-sent"); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// onServer yields the devices whose keys the server may have.
func (u *undoing) onServer(ctx context.Context) iter.Seq2[mender.Expected, error] {
	states := []pipeline.State{pipeline.Staged, pipeline.Preauthorized, pipeline.Released, pipeline.Failed, pipeline.Conflicted}
	return func(yield func(mender.Expected, error) bool) {
		for rec, err := range u.Ledger.Records(ctx, u.Name, states...) {
			if err != nil {
				yield(mender.Expected{}, err)
				return
			}
			if len(rec.PublicKey) == 0 {
				continue
			}
			u.mu.Lock()
			u.queue = append(u.queue, rec)
			u.mu.Unlock()
			if !yield(mender.Expected{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}, nil) {
				return
			}
		}
	}
}

func (u *undoing) next() *pipeline.Record {
	u.mu.Lock()
	defer u.mu.Unlock()
	rec := u.queue[0]
	u.queue = u.queue[1:]
	return rec
}

// destroy destroys a device's key wherever it lies, and records it.
func (u *undoing) destroy(ctx context.Context, rec *pipeline.Record, removal string) error {
	unit, err := u.Ledger.LiveUnit(ctx, u.Name, rec.Row)
	if err != nil {
		return err
	}
	if unit != nil && (unit.State == pipeline.UnitReserved || unit.State == pipeline.UnitWriting) {
		return fault.As(fault.Usage, &pipeline.UnitTakenError{Unit: unit})
	}
	fate := pipeline.KeyInToken
	if !u.stay {
		if fate, err = u.token.destroy(ctx, rec); err != nil {
			return err
		}
	}
	if !rec.Pack.IsZero() {
		found, err := u.destroyEntry(rec)
		if err != nil {
			return err
		}
		inImage := rec.State == pipeline.Released && u.Format != config.FormatPack
		if !found && !inImage && fate == pipeline.KeyDestroyed {
			fate = "" // not called destroyed, as nobody saw it
		}
	}
	gone, err := RemoveImage(ctx, u.Lot.Lot, rec, u.pack)
	if err != nil {
		return err
	}
	if u.Keys == pipeline.KeysInManifest {
		fate = pipeline.KeyInDevice // for ever
	}
	if !gone && u.Keys != pipeline.KeysInToken {
		u.Log.Warn("the image is not where it was published: its key may lie elsewhere", "device", rec.Identity.Name(), "image", rec.Output.Name)
		fate = ""
	}
	changes := pipeline.Transitions{Ledger: u.Ledger, Station: u.Config.Audit.Station, Run: u.id}
	return changes.Undone(ctx, rec, removal, fate)
}

// destroyEntry destroys a device's pack entry. One that is damaged or not there
// is not found.
func (u *undoing) destroyEntry(rec *pipeline.Record) (found bool, err error) {
	if u.pack == nil {
		return false, nil
	}
	err = fault.Disk(u.pack.Destroy(imaging.Ref(rec.Pack)))
	if err == nil {
		return true, nil
	}
	if _, outage := errors.AsType[*pipeline.Outage](err); outage {
		return false, err
	}
	u.Log.Warn("the device's key was not found in the pack", "device", rec.Identity.Name(), "row", rec.Row, "reason", err)
	return false, nil
}

// RemoveImage destroys the published image of a device, whose key it holds: it is
// overwritten where the key lies, and then removed. pack tells where that is; nil
// where there is none. gone is false where an image that was published is not there,
// or could not be overwritten: its key must not be called destroyed.
func RemoveImage(ctx context.Context, lot pipeline.Lot, rec *pipeline.Record, pack *imaging.Pack) (gone bool, err error) {
	if lot.Format == config.FormatPack || rec.Progress() == pipeline.Planned {
		return true, nil
	}
	format, err := imaging.FindFormat(lot.Format)
	if err != nil {
		return false, err
	}
	name := rec.Output.Name
	if name == "" { // a killed run may have published it, and not recorded that
		name = format.FileName(files.SafeName(rec.Identity.Name()), lot.GoldenPath)
	}
	var template *imaging.Template
	if pack != nil && !rec.Pack.IsZero() {
		if template, err = pack.Template(imaging.Ref(rec.Pack)); err != nil {
			template = nil // the pack is damaged: all of the image is overwritten
		}
	}
	d, err := format.Destroy(ctx, filepath.Join(ImagesDir(lot), name), template)
	if err != nil {
		return false, fault.StorageOutage(err)
	}
	return d.Overwritten || !d.Found && rec.Output.Name == "", nil
}
