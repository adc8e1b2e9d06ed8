package station

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender"
)

// Lot is a lot that this station works on: its configuration, the ledger, and
// what carries its devices, which is opened when it is needed. Close gives all
// of it up. Carry and One may be called by many goroutines at once, the other
// methods by one.
type Lot struct {
	pipeline.Lot
	Config *config.Config
	Log    *slog.Logger
	Ledger *ledger.Ledger // nil for a lot that is not planned, where there is no ledger
	Server *mender.Client // nil until it is needed

	opts    *Options
	planned bool
	// restoring says that what lies in the lot's folder will be taken up.
	restoring bool
	// rekeying are devices that get new keys: their old ones may be gone.
	rekeying map[pipeline.IdentitySum]bool
	opened   time.Time
	images   *lotImages
	keys     keySource
	signer   Signer     // vouches for the evidence
	order    *workOrder // nil where there is none
	// authority makes the devices' certificates; nil where they get none.
	authority *authority
	run       *underway // between Begin and End
	drain     <-chan struct{}
}

// Open opens a lot of this name, whether the ledger has it or not. It makes no
// ledger.
func Open(ctx context.Context, o Options, name string) (*Lot, error) {
	if files.SafeLot(name) != name {
		return nil, fault.Usagef("%q cannot name a lot: letters, digits, dot, dash and underscore can", name)
	}
	cfg, err := o.Settings.For(nil)
	if err != nil {
		return nil, err
	}
	l := &Lot{Config: cfg, opts: &o, Lot: pipeline.Lot{Name: name}, opened: time.Now()}
	if l.Ledger, err = OpenKnown(ctx, cfg.Ledger); err != nil {
		return nil, err
	}
	if l.Ledger != nil {
		known, err := l.Ledger.Lot(ctx, name)
		if err != nil && !errors.Is(err, ledger.ErrNoLot) {
			return nil, errors.Join(err, l.Close())
		}
		if l.planned = err == nil; l.planned {
			l.Lot = known
		}
	}
	if l.planned {
		if l.Config, err = o.settingsFor(&l.Lot); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	if o.Shared && !l.planned {
		cfg.Out = filepath.Join(cmp.Or(cfg.Out, "out"), name)
	}
	l.Log = o.log(l.Config)
	return l, nil
}

// settingsFor loads the settings for a planned lot. Where stations share it, the
// folder of its products is this station's own.
func (o *Options) settingsFor(lot *pipeline.Lot) (*config.Config, error) {
	if !o.Shared {
		return o.Settings.For(lot)
	}
	own, err := o.Settings.For(nil)
	if err != nil {
		return nil, err
	}
	here := *lot
	here.Out = filepath.Join(cmp.Or(own.Out, "out"), lot.Name)
	cfg, err := o.Settings.For(&here)
	if err != nil {
		return nil, err
	}
	cfg.Out = here.Out
	return cfg, nil
}

// OpenPlanned opens a lot that the ledger must have.
func OpenPlanned(ctx context.Context, o Options, name string) (*Lot, error) {
	cfg, err := o.Settings.For(nil)
	if err != nil {
		return nil, err
	}
	known, err := OpenLedger(ctx, cfg)
	if err != nil {
		return nil, err
	}
	_, err = FindLot(ctx, known, name)
	if err := files.Closing(known, err); err != nil {
		return nil, err
	}
	return Open(ctx, o, name)
}

// Planned reports whether the ledger has the lot.
func (l *Lot) Planned() bool { return l.planned }

// Close gives up everything that was opened.
func (l *Lot) Close() error {
	var errs []error
	if l.run != nil {
		l.run.stopShowing()
	}
	if l.images != nil {
		errs = append(errs, l.images.Close())
	}
	if l.keys != nil {
		errs = append(errs, l.keys.Close())
	}
	if l.Server != nil {
		l.Server.Close()
	}
	errs = append(errs, l.signer.Close(), l.authority.Close())
	if l.Ledger != nil {
		errs = append(errs, l.Ledger.Close())
	}
	return errors.Join(errs...)
}

// openSigner opens the station's signing key. It is done early: a PIN is asked
// for while somebody is there.
func (l *Lot) openSigner(ctx context.Context) (err error) {
	if l.signer.Signer == nil {
		l.signer, err = l.opts.Signer(ctx, l.Config, l.Log)
	}
	return err
}

// describeLot is the lot that the configuration asks for.
func (l *Lot) describeLot(name, manifest, manifestSHA256 string, devices int) (pipeline.Lot, error) {
	out, err := l.Config.OutDir(name)
	if err != nil {
		return pipeline.Lot{}, err
	}
	if l.keyless() {
		return pipeline.Lot{
			Name: name, ManifestPath: manifest, ManifestSHA256: manifestSHA256, Devices: devices, Format: config.FormatPack,
			Keys: l.Config.Keys.Source, Server: l.Config.Server.Identity(), Out: out, Station: l.Config.Audit.Station,
		}, nil
	}
	goldenPath, err := filepath.Abs(l.Config.Image.Golden)
	if err != nil {
		return pipeline.Lot{}, err
	}
	sum := l.images.golden.SHA256()
	return pipeline.Lot{
		Name: name, ManifestPath: manifest, ManifestSHA256: manifestSHA256, Devices: devices,
		GoldenPath: goldenPath, GoldenSHA256: hex.EncodeToString(sum[:]), GoldenBytes: l.images.golden.Size(),
		InjectSHA256: l.images.render.Sum(), Format: l.Config.Image.Format,
		Keys: l.Config.Keys.Source, Algorithm: l.Config.Keys.Algorithm, Server: l.Config.Server.Identity(),
		Out: out, Station: l.Config.Audit.Station,
	}, nil
}

// sameLot refuses to go on with a lot under other settings than it was planned
// with, and says what differs.
func sameLot(planned, asked pipeline.Lot) error {
	differ := []struct {
		what, was, is string
		kind          fault.Kind
	}{
		{"manifest (sha256)", planned.ManifestSHA256, asked.ManifestSHA256, fault.Manifest},
		{"golden image (sha256)", planned.GoldenSHA256, asked.GoldenSHA256, fault.Storage},
		{"injected files (sha256)", planned.InjectSHA256, asked.InjectSHA256, fault.Usage},
		{"format", planned.Format, asked.Format, fault.Usage},
		{"source of keys", planned.Keys, asked.Keys, fault.Usage},
		{"algorithm", planned.Algorithm, asked.Algorithm, fault.Usage},
		{"server", planned.Server, asked.Server, fault.Usage},
		{"output folder", planned.Out, asked.Out, fault.Usage},
	}
	kind, lines := fault.None, []string(nil)
	for _, d := range differ {
		if d.was != d.is {
			kind = cmp.Or(kind, d.kind)
			lines = append(lines, fmt.Sprintf("%s was %s, is %s", d.what, d.was, d.is))
		}
	}
	if lines == nil {
		return nil
	}
	return fault.As(kind, pipeline.WithHint(&DiffersError{planned.Name, strings.Join(lines, "; ")},
		"Nothing was changed. Use what the lot was planned with, or another name: --lot, or in a drop folder the manifest's."))
}

// DiffersError says that a lot was planned with other settings than are asked for.
type DiffersError struct {
	Lot  string
	What string // what differs, in words
}

func (e *DiffersError) Error() string {
	return fmt.Sprintf("lot %s was planned with different settings: %s", e.Lot, e.What)
}
