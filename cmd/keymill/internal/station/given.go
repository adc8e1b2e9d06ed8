package station

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
)

// keyless reports whether the lot's devices made their keys themselves: then
// there is no golden image, no pack and no product.
func (l *Lot) keyless() bool { return l.Config.Keys.Source == pipeline.KeysInManifest }

// givenKeys are keys that exist before keymill has anything to do with them.
type givenKeys struct {
	mode string         // pipeline.KeysInManifest or KeysInFiles
	path *pipeline.Text // of the key files; nil for keys of the manifest
}

var _ pipeline.GivenKeys = (*givenKeys)(nil)

var errGiven = errors.New("the lot's keys exist already; none is made")

// Generate is never called for keys that exist.
func (g *givenKeys) Generate(context.Context, string) (private, public []byte, err error) {
	return nil, nil, errGiven
}

func (g *givenKeys) AtOnce() int { return 0 }

func (g *givenKeys) Load() hsm.Load { return hsm.Load{} }

func (g *givenKeys) Origin() hsm.Origin { return hsm.Origin{Mode: hsm.Mode(g.mode)} }

func (g *givenKeys) Close() error { return nil }

// For reads the device's key from the manifest's attribute or its file.
func (g *givenKeys) For(_ context.Context, dev *pipeline.Device) (private, public []byte, algorithm string, err error) {
	if g.path == nil {
		for _, a := range dev.Attrs {
			if a.Name == pipeline.AttrPublicKey {
				public, algorithm, err = pipeline.ParsePublicKey(a.Value)
				return nil, public, algorithm, err
			}
		}
		return nil, nil, "", fmt.Errorf("the device has no attribute %s", pipeline.AttrPublicKey)
	}
	path, err := g.file(dev)
	if err != nil {
		return nil, nil, "", err
	}
	data, err := readKeyFile(path)
	if err != nil {
		return nil, nil, "", fault.Disk(err)
	}
	defer hsm.Wipe(data)
	if private, public, algorithm, err = pipeline.ParsePrivateKey(data); err != nil {
		err = fmt.Errorf("key file %s: %w", path, err)
	}
	return private, public, algorithm, err
}

// maxKeyFile is more than any key file has, in bytes.
const maxKeyFile = 64 << 10

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, errors.Join(err, fmt.Errorf("%s is not a key file: it must be a regular file of at most 64 KiB", path))
	}
	return io.ReadAll(f)
}

// file is the path of a device's key file. Values that would lead elsewhere are
// refused: what is read is destroyed in the end.
func (g *givenKeys) file(dev *pipeline.Device) (string, error) {
	for _, list := range [][]pipeline.Attr{dev.Identity, dev.Attrs} {
		for _, a := range list {
			for _, used := range g.path.Attributes() {
				if a.Name == used && (strings.ContainsAny(a.Value, "/\\\x00") || a.Value == "." || a.Value == "..") {
					return "", fmt.Errorf("the %s %q can't be part of a file's name", a.Name, a.Value)
				}
			}
		}
	}
	path, err := g.path.Render(dev)
	if err != nil {
		return "", err
	}
	return filepath.Clean(path), nil
}

// keyPath parses keys.files.
func keyPath(files string) (*pipeline.Text, error) {
	if files == "" {
		return nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("keys.source is files, but keys.files names none"),
			`Set keys.files, such as "keys/{{.serial}}-private.key".`))
	}
	path, err := pipeline.NewText("keys.files", files)
	if err == nil && len(path.Attributes()) == 0 {
		err = pipeline.WithHint(fmt.Errorf("keys.files is %q, the same for all devices", files), `Put an attribute into it, such as "keys/{{.serial}}-private.key".`)
	}
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	return path, nil
}

// checkGiven looks at all keys that a lot shall use before it is planned:
// whether each can be used, and whether devices of this or of another lot have
// it already. All problems are told.
func (l *Lot) checkGiven(ctx context.Context, devices iter.Seq2[pipeline.Device, error]) error {
	source, err := l.opts.openKeys(ctx, l.Config, l.Log)
	if err != nil {
		return err
	}
	given, ok := source.(*givenKeys)
	if !ok {
		return source.Close()
	}
	others, err := keysOfLots(ctx, l.Ledger)
	if err != nil {
		return err
	}
	here := map[keySum]int{}
	problems := 0
	tell := func(row int, what, remedy string) {
		if problems++; l.opts.Hooks.Problem != nil && problems <= 10*FewWarnings {
			l.opts.Hooks.Problem(sources.Problem{Row: row, What: what, Remedy: remedy})
		}
	}
	for dev, err := range devices {
		if err != nil {
			return err
		}
		private, public, _, err := given.For(ctx, &dev)
		hsm.Wipe(private)
		if err != nil {
			if fault.IsStorage(err) {
				return err
			}
			tell(dev.Row, err.Error(), fault.Hint(err))
			continue
		}
		sum := sumOf(public)
		if lot, used := others[sum]; used {
			tell(dev.Row, fmt.Sprintf("the key (sha256 %s) is used in lot %s already", pipeline.Fingerprint(public), lot), "each device needs a key of its own")
		}
		if first, twice := here[sum]; twice {
			tell(dev.Row, fmt.Sprintf("row %d has the same key (sha256 %s)", first, pipeline.Fingerprint(public)), "each device needs a key of its own")
		}
		here[sum] = dev.Row
	}
	if problems > 0 {
		return fault.As(fault.Manifest, pipeline.WithHint(fmt.Errorf("%d keys can't be used; nothing was changed", problems),
			"Correct them, and run the same command again."))
	}
	return nil
}

// keySum is the beginning of the SHA-256 of a public key.
type keySum [16]byte

func sumOf(spki []byte) keySum {
	sum := sha256.Sum256(spki)
	return keySum(sum[:])
}

// keysOfLots returns the lots of all keys that the ledger knows.
func keysOfLots(ctx context.Context, known *ledger.Ledger) (map[keySum]string, error) {
	if known == nil {
		return nil, nil
	}
	lots, err := known.Lots(ctx)
	if err != nil {
		return nil, err
	}
	keys := map[keySum]string{}
	for _, lot := range lots {
		for rec, err := range known.Records(ctx, lot.Name) {
			if err != nil {
				return nil, err
			}
			if len(rec.PublicKey) > 0 && rec.State != pipeline.Undone {
				keys[sumOf(rec.PublicKey)] = lot.Name
			}
		}
	}
	return keys, nil
}

// KeyFiles is what became of the files that a lot's keys came from.
type KeyFiles struct {
	Destroyed int // overwritten and removed now
	Left      int // not overwritten, or not to be: the log says why
}

// destroyKeyFiles overwrites the key files of released devices, where
// keys.files_destroy asks for it, and removes them. A file that holds another key
// than the device's is left alone. What a killed run has left, the next one finds.
func (l *Lot) destroyKeyFiles(ctx context.Context) (done KeyFiles, err error) {
	if l.Config.Keys.Source != pipeline.KeysInFiles || !l.Config.Keys.FilesDestroy {
		return done, nil
	}
	path, err := keyPath(l.Config.Keys.Files)
	if err != nil {
		return done, err
	}
	given := &givenKeys{mode: pipeline.KeysInFiles, path: path}
	for rec, err := range l.Ledger.Records(ctx, l.Name, pipeline.Released) {
		if err != nil {
			return done, err
		}
		file, err := given.file(&rec.Device)
		if err == nil {
			err = l.destroyKeyFile(ctx, given, rec, file)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // destroyed before
		case err != nil:
			done.Left++
			l.Log.Warn("the key file is not destroyed", "device", rec.Identity.Name(), "row", rec.Row, "reason", err)
		default:
			done.Destroyed++
		}
	}
	return done, nil
}

func (l *Lot) destroyKeyFile(ctx context.Context, given *givenKeys, rec *pipeline.Record, path string) error {
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	private, public, _, err := given.For(ctx, &rec.Device)
	hsm.Wipe(private)
	switch {
	case err != nil:
		return err
	case sumOf(public) != sumOf(rec.PublicKey):
		return fmt.Errorf("%s holds another key than the device's", path)
	}
	d, err := imaging.DestroyFile(path)
	switch {
	case err != nil:
		return err
	case !d.Overwritten:
		return fmt.Errorf("%s was removed, but its old bytes may be read from the disk: %s", path, cmp.Or(d.Caveat, "they could not be overwritten"))
	case d.Caveat != "":
		l.Log.Warn("old bytes of key files may survive where no file shows them", "reason", d.Caveat)
	}
	return nil
}

// Shown is a lot's balance as people and scripts see it: keys that existed
// before are imported, not generated.
func Shown(lot pipeline.Lot, t pipeline.Totals) pipeline.Totals {
	if lot.Keys == pipeline.KeysInManifest || lot.Keys == pipeline.KeysInFiles {
		t.Keys.Imported, t.Keys.Generated = t.Keys.Imported+t.Keys.Generated, 0
	}
	return t
}
