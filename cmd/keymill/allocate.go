package main

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

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources/allocation"
)

// allocateFlags are what differs from one allocation to the next; ranges and
// patterns are settings.
type allocateFlags struct {
	count  int
	output string
	attrs  []string
	local  bool
	reuse  bool
	dryRun bool
	undo   bool
}

func (a *app) allocateCmd() *cobra.Command {
	var flags allocateFlags
	cmd := &cobra.Command{
		Use:   "allocate LOT --count N",
		Short: "Hand out MAC addresses and serial numbers to a new manifest",
		Long: `Allocate takes the lowest free addresses and serial numbers for a lot's devices,
records them in the ledger so that they are never given out again, and writes the
lot's manifest. Devices of manifests made elsewhere are passed over. What lots had
that were undone stays theirs unless --reuse is given; --undo takes back what a lot
got that was never run, such as one with a wrong --count.

A range is an OUI (00:1b:63), a block as IEEE assigns them (00:1b:63:10:00:00/28) or
FIRST..LAST. A serial number is text with fields: {seq:N}, once, for the number in N
digits; {luhn} right after it for a check digit; {yyyy} {yy} {mm} {dd} {ww} for the
local date; {lot}.

` + exitCodesHelp,
		Example: "  keymill allocate 2026-W47 --count 5000 --mac 00:1b:63:10:00:00/28 --serial 'KM{yy}{ww}-{seq:5}'\n" +
			"  keymill allocate 2026-W47 --count 5000 --mac-attributes mac,wifi_mac --attr part_no=KM-100 -o w47.csv\n" +
			"  keymill allocate 2026-W47 --count 5000 --dry-run --json\n" +
			"  keymill allocate 2026-W47 --undo --dry-run",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.undo {
				return a.deallocate(cmd, args[0], flags)
			}
			return a.allocate(cmd, args[0], flags)
		},
	}
	cmd.Flags().IntVar(&flags.count, "count", 0, "devices of the lot")
	cmd.Flags().StringVarP(&flags.output, "output", "o", "", "manifest to write, .csv or .xlsx, or - for standard output (default LOT.csv)")
	cmd.Flags().StringArrayVar(&flags.attrs, "attr", nil, "NAME=VALUE, an attribute that is the same for every device")
	cmd.Flags().BoolVar(&flags.local, "local", false, "allow locally administered addresses")
	cmd.Flags().BoolVar(&flags.reuse, "reuse", false, "give out again what lots had that were undone")
	cmd.Flags().BoolVar(&flags.dryRun, "dry-run", false, "say what would be given, record and write nothing")
	cmd.Flags().BoolVar(&flags.undo, "undo", false, "take back what a lot got that was never run; --reuse gives it out again")
	addSettings(cmd, "mac", "mac-attributes", "serial", "serial-first")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) allocate(cmd *cobra.Command, lot string, flags allocateFlags) error {
	if flags.count < 1 {
		return fault.Usagef("--count is %d; it is the number of devices", flags.count)
	}
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return err
	}
	request, err := allocationRequest(cfg, lot, flags)
	if err != nil {
		return fault.As(fault.Usage, err)
	}
	output := cmp.Or(flags.output, lot+".csv")
	if isWorkbook(output) && flags.count >= allocation.MaxSheetRows {
		return fault.Usagef("%d devices are more than a sheet has rows; write a .csv", flags.count)
	}
	if err := freeName(output); err != nil && !flags.dryRun {
		return err
	}
	known, err := station.OpenKnown(ctx, cfg.Ledger)
	if err == nil && known == nil && !flags.dryRun {
		known, err = ledger.Open(ctx, cfg.Ledger)
	}
	if err != nil {
		return err
	}
	if known == nil {
		return a.propose(ctx, noGrants{}, request)
	}
	defer known.Close()
	if _, err := known.Lot(ctx, lot); !errors.Is(err, ledger.ErrNoLot) {
		return cmp.Or(err, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("the ledger has lot %s already", lot), "Give the new lot another name.")))
	}
	request.Held = heldIn(known, flags.reuse)
	if flags.dryRun {
		return a.propose(ctx, grantBook{known}, request)
	}
	granted, err := allocation.Allocate(ctx, grantBook{known}, request)
	if err != nil {
		return allocateFault(err)
	}
	return a.handOut(ctx, cfg, known, granted, lot, output)
}

func (a *app) propose(ctx context.Context, register allocation.Register, request allocation.Request) error {
	proposed, err := allocation.Propose(ctx, register, request)
	if err != nil {
		return allocateFault(err)
	}
	var seen ends
	if err := proposed.WriteCSV(&seen); err != nil {
		return err
	}
	return a.printAllocation(request.Lot, "", proposed, &seen)
}

// handOut writes the manifest of what was recorded, and the event.
func (a *app) handOut(ctx context.Context, cfg *config.Config, known *ledger.Ledger, granted *allocation.Allocation, lot, output string) error {
	var seen ends
	write := func(w io.Writer) error { return granted.WriteCSV(io.MultiWriter(w, &seen)) }
	if isWorkbook(output) {
		write = func(w io.Writer) error { return errors.Join(granted.WriteCSV(&seen), granted.WriteXLSX(w)) }
	}
	var err error
	if output == "-" {
		err = write(a.out)
	} else {
		err = files.Write(output, write)
	}
	if err != nil {
		return fault.StorageOutage(pipeline.WithHint(fmt.Errorf("manifest %s: %w", output, err),
			"What was handed out stays recorded and is not given again; repair the disk and allocate anew."))
	}
	_, err = known.Append(ctx, pipeline.Event{Station: cfg.Audit.Station, Action: pipeline.ActionAllocate, Facts: station.Facts(map[string]string{
		"lot": lot, "devices": strconv.Itoa(granted.Count), "ranges": strconv.Itoa(len(granted.Grants)),
		"first": seen.first(), "last": seen.last(), "operator": cfg.Audit.Operator,
	})})
	if err != nil {
		return err
	}
	if output == "-" {
		return nil
	}
	return a.printAllocation(lot, output, granted, &seen)
}

// allocationRequest is what the configuration and the flags ask for.
func allocationRequest(c *config.Config, lot string, flags allocateFlags) (allocation.Request, error) {
	request := allocation.Request{
		Lot: lot, Count: flags.count, Local: flags.local, Reuse: flags.reuse, Identity: c.Manifest.Identity,
		SerialFirst: uint64(c.Allocate.SerialFirst), Time: time.Now(), // the factory's day and week, not Greenwich's
	}
	if files.SafeName(lot) != lot {
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
	for _, text := range flags.attrs {
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
