package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/reports"
)

// Bench is a station on its lot, ready to be run. Close gives everything up.
type Bench struct {
	*Station
	Page    *Page
	ln      net.Listener
	closers []io.Closer
	lot     *station.Lot // in make mode
	out     string       // the lot's folder
	base    context.Context
	cancel  context.CancelFunc // of base, which all work ends with
}

// Settings say which lot the bench works on, and how.
type Settings struct {
	Lot    string
	Make   bool
	Listen string // empty: as the configuration says
}

// Open opens the lot and what its units need. Nothing is made or written yet. All
// that the bench does ends with ctx.
func Open(ctx context.Context, o station.Options, s Settings) (*Bench, error) {
	b := &Bench{}
	b.base, b.cancel = context.WithCancel(ctx)
	ctx = b.base
	if err := b.open(ctx, o, s); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Bench) open(ctx context.Context, o station.Options, s Settings) (err error) {
	l, err := station.OpenPlanned(ctx, o, s.Lot)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, l)
	cfg := l.Config
	if l.Format != config.FormatPack {
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("lot %s is not in format pack: its images are files", l.Name),
			"Plan lots for the station with --format pack."))
	}
	lock, err := files.Lock(filepath.Join(l.Out, "station.lock"), "the units of lot "+l.Name)
	if err != nil {
		return err
	}
	b.closers, b.out = append(b.closers, lock), l.Out
	opt, err := Configure(cfg, l.Log)
	if err != nil {
		return err
	}
	opt.Station = cfg.Audit.Station
	if err := b.openLot(ctx, l, &opt, s.Make); err != nil {
		return err
	}
	if b.Station, err = New(ctx, opt); err != nil {
		return err
	}
	return b.listen(ctx, cfg, s.Listen)
}

// openLot opens golden image, pack and, in make mode, keys and server.
func (b *Bench) openLot(ctx context.Context, l *station.Lot, opt *Options, making bool) error {
	run := int64(0)
	marks := station.NewHandOuts(l.Lot)
	if making {
		if err := l.Reopen(ctx); err != nil {
			return err
		}
		if err := l.Begin(ctx, l.Devices); err != nil {
			return err
		}
		b.lot = l
		marks = l.HandOuts()
		run = l.Run()
		opt.Maker = &lineMaker{lot: l, runs: map[int]*lineRun{}}
	}
	golden, err := station.OpenGolden(ctx, l.Config, l.Lot)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, golden)
	pack, err := imaging.ReadPack(station.PackPath(l.Lot))
	if err != nil {
		return fault.StorageOutage(pipeline.WithHint(err, "Run the lot first; its pack is where the units' keys are."))
	}
	b.closers = append(b.closers, pack, marks)
	opt.Press = &mediaPress{golden: golden, pack: pack, marks: marks}
	opt.Lot, err = newLedgerLot(ctx, l.Ledger, l.Lot, l.Config.Audit.Station, l.Config.Station.Code, run, making)
	return err
}

// Configure makes a station's options of its settings: slots, labels, printer,
// badges and hooks.
func Configure(cfg *config.Config, log *slog.Logger) (Options, error) {
	s := cfg.Station
	opt := Options{
		ByNext: s.Code == "", ByOperator: s.Confirm == "operator", Largest: int64(s.Largest), Silence: s.Silence, Call: s.Call,
		Places: Places{Sys: "/sys", Dev: "/dev"}, Learnt: config.BesideLedger(cfg.Ledger, "station-slots.json"), Work: os.TempDir(),
		Before: &Hook{s.Before, s.HookLimit}, After: &Hook{s.After, s.HookLimit}, Watch: WatchBlock, Log: log,
	}
	if len(s.Slots) == 0 {
		return opt, fault.As(fault.Usage, pipeline.WithHint(errors.New("the station has no slots"),
			"Set station.slots in %s: {name: \"1\", port: \"1-1.2\"}, or for trials {name: trial, file: slot-trial.img}.", config.File))
	}
	names := map[string]bool{}
	for _, c := range s.Slots {
		slot, err := slotOptions(c, opt.Places, s)
		if err == nil && (c.Name == "" || names[c.Name]) {
			err = errors.New("each slot needs a name of its own")
		}
		if err != nil {
			return opt, fault.As(fault.Usage, fmt.Errorf("station.slots, slot %q: %w", c.Name, err))
		}
		names[c.Name] = true
		opt.Slots = append(opt.Slots, slot)
	}
	if err := configureLabels(cfg, &opt); err != nil {
		return opt, err
	}
	if s.Badges != "" {
		badges, err := ReadBadges(s.Badges)
		if err != nil {
			return opt, fault.As(fault.Usage, fmt.Errorf("station.badges: %w", err))
		}
		opt.Badges = badges
	}
	return opt, nil
}

func slotOptions(c config.SlotConfig, places Places, s config.StationConfig) (o SlotOptions, err error) {
	o.Name = c.Name
	where := 0
	for _, given := range []bool{c.Port != "" && len(c.Command) == 0, c.Disk != "", c.File != "", len(c.Command) > 0} {
		if given {
			where++
		}
	}
	switch {
	case where > 1:
		return o, errors.New("set one of port, disk, file and command")
	case len(c.Command) > 0:
		o.Program = &Program{Command: c.Command, ReadBack: c.ReadBack, Port: c.Port, Limit: s.ProgramLimit}
		return o, errors.Join(CheckProgram(c.Command), CheckProgram(c.ReadBack))
	case c.Port != "":
		o.Place, err = places.Port(c.Port)
	case c.Disk != "":
		o.Place, err = places.Disk(c.Disk)
	case c.File != "":
		var path string
		path, err = filepath.Abs(c.File)
		o.Place = File(path)
	}
	return o, err
}

func configureLabels(cfg *config.Config, opt *Options) error {
	switch {
	case cfg.Label.Printer == "" && !opt.ByOperator:
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("units are confirmed by their labels, but there is no printer"),
			"Set label.printer (file:DIR for trials), or station.confirm: operator."))
	case cfg.Label.Printer == "":
		return nil
	}
	labels, err := Labels(cfg)
	if err != nil {
		return err
	}
	if opt.Printer, err = OpenPrinter(cfg.Label.Printer, labels.Printed()); err != nil {
		return fault.As(fault.Usage, fmt.Errorf("label.printer: %w", err))
	}
	opt.Labeller = labeller{labels}
	return nil
}

// Labels are the labels that the configuration asks for.
func Labels(cfg *config.Config) (*reports.Labels, error) {
	c := cfg.Label
	opt := reports.LabelOptions{Size: c.Size, Symbol: c.Symbol, Content: c.Content, GTIN: c.GTIN, Serial: c.Serial, DPI: c.DPI}
	if c.Template != "" {
		text, err := os.ReadFile(c.Template)
		if err != nil {
			return nil, fault.As(fault.Usage, fmt.Errorf("label.template: %w", err))
		}
		opt.Template = string(text)
	}
	labels, err := reports.NewLabels(opt)
	return labels, fault.As(fault.Usage, err)
}

// labeller makes labels as reports does.
type labeller struct{ labels *reports.Labels }

func (l labeller) Label(u *Unit, sticker string) (string, []byte, error) {
	label, err := l.labels.Label(reports.LabelUnit{Lot: u.Record.Lot, Device: &u.Record.Device, Number: u.Number, Again: u.Again, Sticker: sticker})
	if err != nil {
		return "", nil, err
	}
	var out writer
	err = label.Write(&out, l.labels.Printed())
	return label.Code, out, err
}

// writer collects bytes.
type writer []byte

func (w *writer) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

// listen opens the page's address.
func (b *Bench) listen(ctx context.Context, cfg *config.Config, address string) error {
	if address == "" {
		address = cfg.Station.Listen
	}
	var certs []tls.Certificate
	if cfg.Station.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.Station.TLSCert, cfg.Station.TLSKey)
		if err != nil {
			return fault.As(fault.Usage, fmt.Errorf("station.tls_cert: %w", err))
		}
		certs = append(certs, cert)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fault.As(fault.Usage, pipeline.WithHint(err, "Give another address with --listen, or set station.listen."))
	}
	b.ln = ln
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && len(certs) == 0 {
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s is not loopback: badges and PINs would go in the clear", address),
			"Set station.tls_cert and station.tls_key, or listen on 127.0.0.1."))
	}
	secret, err := keptSecret(filepath.Join(b.out, "station.cookie"))
	if err != nil {
		return fault.StorageOutage(err)
	}
	if b.Page, err = NewPage(b.Station, ln.Addr(), certs, secret); err != nil {
		return err
	}
	if len(certs) > 0 {
		b.ln = tls.NewListener(ln, &tls.Config{Certificates: certs, MinVersion: tls.VersionTLS12})
	}
	return nil
}

// Run serves the page and works until the context of Open ends; then it brings
// what is being written to an end that the next start takes up.
func (b *Bench) Run() error {
	served := make(chan error, 1)
	go func() {
		defer b.cancel()
		served <- b.Page.Serve(b.base, b.ln)
	}()
	err := b.Station.Run(b.base)
	b.cancel()
	return errors.Join(err, <-served)
}

// Close gives up what Open opened, and in make mode ends the run.
func (b *Bench) Close() error {
	var errs []error
	b.cancel()
	if b.lot != nil {
		_, err := b.lot.End(context.WithoutCancel(b.base), nil)
		errs = append(errs, err)
	}
	if b.ln != nil {
		_ = b.ln.Close() // closed already where it was served
	}
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i].Close())
	}
	return errors.Join(errs...)
}
