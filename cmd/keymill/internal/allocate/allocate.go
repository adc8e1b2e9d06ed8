// Package allocate hands out MAC addresses and serial numbers, records them in
// the ledger, and writes the lot's manifest.
package allocate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
	"keymill/sources/allocation"
)

// Wanted is an allocation that somebody asks for. Ranges and patterns are settings.
type Wanted struct {
	Lot    string
	Count  int      // devices
	Output string   // manifest to write; - for Stdout, empty for LOT.csv
	Attrs  []string // NAME=VALUE, the same for every device
	Local  bool     // locally administered addresses are allowed
	Reuse  bool     // what lots had that were undone is free
	Stdout io.Writer
}

// output is the manifest's name.
func (w Wanted) output() string { return cmp.Or(w.Output, w.Lot+".csv") }

// Granted is what was handed out, or would be. It is the JSON of `allocate --json`.
type Granted struct {
	Lot      string  `json:"lot"`
	Devices  int     `json:"devices"`
	Manifest string  `json:"manifest,omitempty"` // empty when nothing was recorded
	First    string  `json:"first"`              // row of the manifest
	Last     string  `json:"last"`
	Ranges   []Range `json:"ranges"`
	Left     uint64  `json:"left"`
	Low      bool    `json:"low"`
	// PassedOver is how many identifiers devices of the ledger held already.
	PassedOver uint64 `json:"passed_over"`
}

// Range is a run of identifiers.
type Range struct {
	Space string `json:"space"`
	First string `json:"first"` // an address as people write it, or the number in the sequence
	Last  string `json:"last"`
}

// Propose says what would be handed out, and records nothing.
func Propose(ctx context.Context, cfg *config.Config, w Wanted) (*Granted, error) {
	request, err := w.check(cfg)
	if err != nil {
		return nil, err
	}
	known, err := station.OpenKnown(ctx, cfg.Ledger)
	if err != nil {
		return nil, err
	}
	var register allocation.Register = noGrants{}
	if known != nil {
		defer known.Close()
		if err := w.unknown(ctx, known); err != nil {
			return nil, err
		}
		request.Held, register = heldIn(known, w.Reuse), grantBook{known}
	}
	proposed, err := allocation.Propose(ctx, register, request)
	if err != nil {
		return nil, allocateFault(err)
	}
	var seen ends
	if err := proposed.WriteCSV(&seen); err != nil {
		return nil, err
	}
	return grantedOf(w.Lot, "", proposed, &seen), nil
}

// HandOut records addresses and serial numbers in the ledger, which it makes where
// there is none, and writes the lot's manifest.
func HandOut(ctx context.Context, cfg *config.Config, w Wanted) (*Granted, error) {
	request, err := w.check(cfg)
	if err != nil {
		return nil, err
	}
	if err := freeName(w.output()); err != nil {
		return nil, err
	}
	known, err := ledger.Open(ctx, cfg.Ledger)
	if err != nil {
		return nil, err
	}
	defer known.Close()
	if err := w.unknown(ctx, known); err != nil {
		return nil, err
	}
	request.Held = heldIn(known, w.Reuse)
	granted, err := allocation.Allocate(ctx, grantBook{known}, request)
	if err != nil {
		return nil, allocateFault(err)
	}
	return w.write(ctx, cfg, known, granted)
}

// check returns what the configuration and the flags ask for.
func (w Wanted) check(cfg *config.Config) (allocation.Request, error) {
	if w.Count < 1 {
		return allocation.Request{}, fault.Usagef("--count is %d; it is the number of devices", w.Count)
	}
	request, err := allocationRequest(cfg, w.Lot, w)
	if err != nil {
		return request, fault.As(fault.Usage, err)
	}
	if isWorkbook(w.output()) && w.Count >= allocation.MaxSheetRows {
		return request, fault.Usagef("%d devices are more than a sheet has rows; write a .csv", w.Count)
	}
	return request, nil
}

// unknown refuses a lot that the ledger has.
func (w Wanted) unknown(ctx context.Context, known *ledger.Ledger) error {
	_, err := known.Lot(ctx, w.Lot)
	if errors.Is(err, ledger.ErrNoLot) {
		return nil
	}
	return cmp.Or(err, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("the ledger has lot %s already", w.Lot), "Give the new lot another name.")))
}

// write writes the manifest of what was recorded, and the event.
func (w Wanted) write(ctx context.Context, cfg *config.Config, known *ledger.Ledger, granted *allocation.Allocation) (*Granted, error) {
	var seen ends
	output := w.output()
	write := func(to io.Writer) error { return granted.WriteCSV(io.MultiWriter(to, &seen)) }
	if isWorkbook(output) {
		write = func(to io.Writer) error { return errors.Join(granted.WriteCSV(&seen), granted.WriteXLSX(to)) }
	}
	var err error
	if output == "-" {
		err = write(w.Stdout)
	} else {
		err = files.Write(output, write)
	}
	if err != nil {
		return nil, fault.StorageOutage(pipeline.WithHint(fmt.Errorf("manifest %s: %w", output, err),
			"What was handed out stays recorded and is not given again; repair the disk and allocate anew."))
	}
	_, err = known.Append(ctx, pipeline.Event{Station: cfg.Audit.Station, Action: pipeline.ActionAllocate, Facts: station.Facts(map[string]string{
		"lot": w.Lot, "devices": strconv.Itoa(granted.Count), "ranges": strconv.Itoa(len(granted.Grants)),
		"first": seen.first(), "last": seen.last(), "operator": cfg.Audit.Operator,
	})})
	return grantedOf(w.Lot, output, granted, &seen), err
}

// allocationRequest is what the configuration and the flags ask for.
func allocationRequest(c *config.Config, lot string, flags Wanted) (allocation.Request, error) {
	request := allocation.Request{
		Lot: lot, Count: flags.Count, Local: flags.Local, Reuse: flags.Reuse, Identity: c.Manifest.Identity,
		SerialFirst: uint64(c.Allocate.SerialFirst), Time: time.Now(), // the factory's day and week, not Greenwich's
	}
	if files.SafeLot(lot) != lot {
		return request, fmt.Errorf("%q cannot name a lot: letters, digits, dot, dash and underscore can", lot)
	}
	for _, text := range c.Allocate.MACs {
		r, err := allocation.ParseMACRange(text)
		if err != nil {
			return request, err
		}
		request.From, request.MACs = append(request.From, r), c.Allocate.MACAttributes
	}
	if c.Allocate.Serial != "" {
		pattern, err := allocation.ParseSerialPattern(c.Allocate.Serial)
		if err != nil {
			return request, err
		}
		request.Serial = pattern
	}
	for _, text := range flags.Attrs {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return request, fmt.Errorf("--attr %q is not NAME=VALUE", text)
		}
		request.Attrs = append(request.Attrs, pipeline.Attr{Name: name, Value: value})
	}
	if len(request.Identity) == 0 {
		// As manifests are read: mac, else serial.
		request.Identity = []string{"serial"}
		if len(request.MACs) > 0 {
			request.Identity = request.MACs[:1]
		}
	}
	return request, nil
}

func isWorkbook(path string) bool { return strings.EqualFold(filepath.Ext(path), ".xlsx") }

// freeName refuses to replace a manifest: it may be the only one.
func freeName(path string) error {
	if path == "-" {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s exists already; nothing was allocated", path), "Name another file with -o."))
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fault.As(fault.Usage, fmt.Errorf("%w; nothing was allocated", err))
	}
	return nil
}

// allocateFault: what is not the ledger's fault is the request's.
func allocateFault(err error) error {
	if fault.KindOf(err) == fault.Internal {
		return fault.As(fault.Usage, err)
	}
	return err
}

func grantedOf(lot, output string, granted *allocation.Allocation, seen *ends) *Granted {
	result := &Granted{
		Lot: lot, Devices: granted.Count, Manifest: output, First: seen.first(), Last: seen.last(),
		Left: granted.Left, Low: granted.Low(), PassedOver: granted.PassedOver,
	}
	for _, g := range granted.Grants {
		result.Ranges = append(result.Ranges, rangeOf(g.Space, g.First, g.Last))
	}
	return result
}

// rangeOf shows a range of numbers of a space.
func rangeOf(space string, first, last uint64) Range {
	if space == allocation.MACSpace {
		return Range{space, sources.MACFromUint64(first).String(), sources.MACFromUint64(last).String()}
	}
	return Range{space, strconv.FormatUint(first, 10), strconv.FormatUint(last, 10)}
}
