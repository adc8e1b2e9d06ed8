package station

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// survey is what a lot's folder holds that its ledger doesn't know, and what will
// be done about it.
type survey struct {
	*Lot
	line   *pipeline.Line
	adopt  []adoption
	strays []pipeline.Stray // in the pack, of keys that nobody knows
	wipe   []foundImage     // of keys that nobody knows
	units  []handedOut
	result RestoredLot
}

// adoption is a key that a device gets, as the server knows it.
type adoption struct {
	rec  *pipeline.Record
	spki []byte
	ref  pipeline.PackRef // zero where the key lies in the image
	out  pipeline.Output
}

// handedOut is a unit that the pack's hand-out marks tell of.
type handedOut struct {
	identity pipeline.IdentitySum
	mark     imaging.Mark
}

// lateServer is the lot's server, which is opened when something is asked.
type lateServer struct{ *Lot }

func (s lateServer) Preauthorize(ctx context.Context, req pipeline.Preauth) (pipeline.AuthSet, error) {
	if err := s.openServer(ctx, 0); err != nil {
		return pipeline.AuthSet{}, err
	}
	return s.Server.Preauthorize(ctx, req)
}

func (s lateServer) Holds(ctx context.Context, keys []pipeline.HeldKey) ([]bool, error) {
	if err := s.openServer(ctx, 0); err != nil {
		return nil, err
	}
	return s.Server.Holds(ctx, keys)
}

// surveyLot looks at the folder of a lot and asks the server about what the
// ledger doesn't know. It changes nothing. since is when the ledger ends.
func surveyLot(ctx context.Context, o Options, known *ledger.Ledger, lot pipeline.Lot, since time.Time) (*survey, error) {
	cfg, err := o.Settings.For(&lot)
	if err != nil {
		return nil, err
	}
	l := &Lot{Config: cfg, opts: &o, Lot: lot, Ledger: known, planned: true, opened: time.Now(), Log: o.log(cfg)}
	s := &survey{Lot: l, result: RestoredLot{Lot: lot.Name}}
	if _, err := os.Stat(lot.Out); errors.Is(err, fs.ErrNotExist) {
		s.result.Absent = true
		return s, nil
	}
	l.images = &lotImages{log: l.Log, lot: lot, late: l.lateGolden}
	if lot.Format != config.FormatPack {
		l.images.dir = ImagesDir(lot)
		if l.images.format, err = imaging.FindFormat(lot.Format); err != nil {
			return s, fault.As(fault.Usage, err)
		}
	}
	s.line = pipeline.NewLine(pipeline.LineConfig{
		Lot: lot, Station: cfg.Audit.Station, Ledger: known, Images: l.images, Server: lateServer{l}, Log: l.Log,
	})
	l.images.pack, err = imaging.OpenPack(PackPath(lot))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fault.StorageOutage(err)
	}
	if l.images.pack != nil && lot.Keys != pipeline.KeysInToken {
		if err := s.inPack(ctx); err != nil {
			return s, err
		}
	}
	if err := s.inImages(ctx, since); err != nil {
		return s, err
	}
	return s, s.marks(ctx)
}

// lateGolden opens golden for images that are open already.
func (l *Lot) lateGolden(ctx context.Context) error {
	images := l.images
	err := l.openGolden(ctx, l.Created)
	if err == nil {
		images.golden, images.plan, images.render = l.images.golden, l.images.plan, l.images.render
	}
	l.images = images
	return err
}

// inPack sorts the pack's entries that no record claims.
func (s *survey) inPack(ctx context.Context) error {
	var found pipeline.Recovered
	strays, _, err := s.line.Strays(ctx, s.Format != config.FormatPack, &found)
	if err != nil {
		return err
	}
	last := map[pipeline.IdentitySum]pipeline.Stray{} // held, by device; the later one in the pack counts
	for _, stray := range strays {
		switch {
		case stray.Record == nil:
			s.result.Foreign++
		case !stray.Held:
			s.strays = append(s.strays, stray)
		default:
			if _, two := last[stray.Entry.Identity]; two {
				s.result.Unclear++
			}
			last[stray.Entry.Identity] = stray
		}
	}
	for _, stray := range last {
		rival, err := s.holdsOwn(ctx, stray.Record, stray.SPKI)
		if err != nil {
			return err
		}
		if rival {
			s.result.Unclear++
			continue
		}
		s.adopt = append(s.adopt, adoption{rec: stray.Record, spki: stray.SPKI, ref: stray.Entry.Ref})
	}
	slices.SortFunc(s.adopt, func(a, b adoption) int { return a.rec.Row - b.rec.Row })
	return nil
}

// holdsOwn reports whether the server knows the key that the record has, too, and
// that key is there: then nobody can say which of the two is the device's.
func (s *survey) holdsOwn(ctx context.Context, rec *pipeline.Record, found []byte) (bool, error) {
	if len(rec.PublicKey) == 0 || bytes.Equal(rec.PublicKey, found) || !s.entryLives(rec) {
		return false, nil
	}
	held, err := lateServer{s.Lot}.Holds(ctx, []pipeline.HeldKey{{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}})
	return err == nil && held[0], err
}

// entryLives reports whether the record's own pack entry is there.
func (s *survey) entryLives(rec *pipeline.Record) bool {
	if s.images.pack == nil || rec.Pack.IsZero() {
		return false
	}
	key, overlay, err := s.images.pack.Read(imaging.Ref(rec.Pack))
	if err != nil {
		return false
	}
	Wipe(overlay)
	return key == rec.Identity.Sum()
}

// inImages sorts the published images whose keys the records don't account for.
func (s *survey) inImages(ctx context.Context, since time.Time) error {
	found, err := s.strangeImages(ctx, since, true)
	if err != nil {
		return err
	}
	packed := map[pipeline.IdentitySum][]byte{}
	for _, a := range s.adopt {
		packed[a.rec.Identity.Sum()] = a.spki
	}
	for _, f := range found {
		own := bytes.Equal(f.spki, f.rec.PublicKey)
		switch {
		case own && s.entryLives(f.rec), bytes.Equal(packed[f.rec.Identity.Sum()], f.spki):
			continue // the run goes on from the pack
		case !f.held && own:
			continue
		case !f.held:
			s.wipe = append(s.wipe, f)
			continue
		}
		info, err := os.Stat(f.path)
		if err != nil {
			return fault.StorageOutage(err)
		}
		sum, err := files.SHA256(ctx, f.path)
		if err != nil {
			return fault.StorageOutage(err)
		}
		s.adopt = append(s.adopt, adoption{rec: f.rec, spki: f.spki,
			out: pipeline.Output{Name: filepath.Base(f.path), Bytes: info.Size(), SHA256: sum}})
	}
	return nil
}

// marks finds the units that the pack tells of and the ledger doesn't know, the
// latest first.
func (s *survey) marks(ctx context.Context) error {
	if s.images.pack == nil {
		return nil
	}
	for mark, err := range s.images.pack.Marks(ctx) {
		if err != nil {
			return fault.StorageOutage(err)
		}
		unit, err := s.Ledger.Unit(ctx, s.Name, int(mark.Unit))
		if err != nil {
			return err
		}
		if unit == nil {
			s.units = append(s.units, handedOut{identity: mark.Key, mark: mark})
		}
	}
	slices.Reverse(s.units)
	return nil
}

// apply does what the survey came to: what is known is recorded first.
func (s *survey) apply(ctx context.Context) error {
	changes := pipeline.Transitions{Ledger: s.Ledger, Station: s.Config.Audit.Station}
	for _, a := range s.adopt {
		if err := changes.Adopted(ctx, a.rec, a.spki, s.Algorithm, a.ref, a.out); err != nil {
			return err
		}
		s.result.Adopted++
	}
	for _, h := range s.units {
		done, err := s.rebuild(ctx, &changes, h)
		if err != nil {
			return err
		}
		if done {
			s.result.Units++
		}
	}
	for _, stray := range s.strays {
		if err := s.line.DestroyStray(ctx, stray); err != nil {
			return err
		}
		s.result.Destroyed++
	}
	for _, f := range s.wipe {
		if err := s.images.DestroyOutput(ctx, filepath.Base(f.path)); err != nil {
			return err
		}
		s.result.Destroyed++
	}
	return nil
}

// rebuild makes a unit of a hand-out mark. It is bound to its device if the mark
// is of the device's key and the latest one; else it is scrapped.
func (s *survey) rebuild(ctx context.Context, changes *pipeline.Transitions, h handedOut) (bool, error) {
	rec, err := s.Ledger.Record(ctx, s.Name, h.identity)
	if errors.Is(err, pipeline.ErrNoDevice) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	live, err := s.Ledger.LiveUnit(ctx, s.Name, rec.Row)
	if err != nil {
		return false, err
	}
	bound := live == nil && (rec.Pack.IsZero() || rec.Pack == pipeline.PackRef(h.mark.Entry)) && rec.State != pipeline.Undone
	unit := &pipeline.Unit{Number: int(h.mark.Unit), Marker: h.mark.Marker, Recipient: h.mark.Recipient}
	return true, changes.RebuildUnit(ctx, s.Ledger, rec, unit, bound)
}

// close gives up what was opened, but not the ledger.
func (s *survey) close() error {
	s.Lot.Ledger = nil
	return s.Lot.Close()
}
