package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline/mender"
)

func (a *app) verifyCmd() *cobra.Command {
	var asCSV, unexpected, watch, sample, products bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "verify LOT",
		Short: "Compare ledger and server, device by device",
		Long: `Verify asks the server for the lot's devices and says of each what the server holds:
preauthorized, accepted (and since when), pending, rejected, missing, being deleted,
another key, a second key. It ends with 4 when something is off. Where somebody else
asks with another key (anybody can), the device is knocking: that key can't be used
unless somebody accepts it. Of devices that were taken back it says which are still
there.

With --products it compares what lies in the lot's folder with the records instead, and
ends with 7 when an image or a pack entry is gone or is not what was recorded.

` + exitCodesHelp,
		Example: "  keymill verify 2026-W47\n  keymill verify 2026-W47 --csv > verify.csv\n  keymill verify 2026-W47 --watch",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := station.OpenPlanned(cmd.Context(), a.options(cmd), args[0])
			if err != nil {
				return err
			}
			defer l.Close()
			if products {
				return a.verifyProducts(cmd.Context(), l)
			}
			o := station.VerifyOptions{Sample: sample, Unexpected: unexpected, Inventory: !sample && !watch}
			if watch {
				return a.watchLot(cmd.Context(), l, o, every)
			}
			return a.verify(cmd.Context(), l, o, asCSV)
		},
	}
	cmd.Flags().BoolVar(&products, "products", false, "compare the images or the pack with the records instead; the server isn't asked")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print one line for each device as CSV")
	cmd.Flags().BoolVar(&unexpected, "unexpected", false, "report the server's devices that are not of this lot as well")
	cmd.Flags().BoolVar(&sample, "sample", false, "compare a random sample only: 1 %, at least 50")
	cmd.Flags().BoolVar(&watch, "watch", false, "follow the lot's first boots until all devices are accepted")
	cmd.Flags().DurationVar(&every, "every", 30*time.Second, "time between two looks of --watch")
	addSettings(cmd, "server", "token-file", "ca-file", "in-flight", "golden")
	a.jsonFlag(cmd)
	return cmd
}

// verifyProducts compares the lot's folder with its records.
func (a *app) verifyProducts(ctx context.Context, l *station.Lot) error {
	found, err := l.VerifyProducts(ctx)
	if err != nil {
		return err
	}
	if a.json {
		if err := a.writeJSON(found); err != nil {
			return err
		}
	} else {
		a.printf("Lot %s: %s released, %d images gone, %d not as recorded.\n", found.Lot, say.Count(found.Devices, "device"), found.Gone, found.Wrong)
		for _, f := range found.First {
			a.printf("  row %d, %s: %s\n", f.Row, f.Identity, f.Reason)
		}
	}
	if !found.OK {
		return fault.Told(fault.Storage, "the lot's products are not what was recorded")
	}
	return nil
}

// verify compares and prints.
func (a *app) verify(ctx context.Context, l *station.Lot, o station.VerifyOptions, asCSV bool) error {
	if asCSV {
		rows := csv.NewWriter(a.out)
		defer rows.Flush()
		if err := rows.Write([]string{"identity", "category", "device_id", "since", "spki_sha256"}); err != nil {
			return err
		}
		o.Each = func(f mender.Finding) error {
			since := ""
			if !f.Since.IsZero() {
				since = f.Since.UTC().Format(time.RFC3339)
			}
			return rows.Write([]string{f.Identity.String(), string(f.Category), f.DeviceID, since, f.Fingerprint})
		}
	}
	result, err := l.Verify(ctx, o)
	if err != nil {
		return err
	}
	switch {
	case a.json:
		if err := a.writeJSON(result); err != nil {
			return err
		}
	case !asCSV:
		printVerification(a.out, result)
	}
	if !result.OK {
		return fault.Told(fault.Devices, "ledger and server differ")
	}
	return nil
}

func printVerification(w io.Writer, result station.Verified) {
	fmt.Fprintf(w, "Lot %s: %d devices compared with the server\n", result.Lot, result.Devices)
	for _, category := range mender.Categories {
		if n := result.Counts[category]; n > 0 {
			fmt.Fprintf(w, "  %-14s %d\n", category, n)
		}
	}
	for i, dev := range result.Off {
		if i == 20 {
			fmt.Fprintf(w, "  .. and more; --csv lists all\n")
			break
		}
		fmt.Fprintf(w, "  %s: %s %s\n", dev.Category, identityText(dev.Identity), dev.DeviceID)
	}
	if result.Undone > 0 {
		fmt.Fprintf(w, "%s taken back, %d of them still there\n", say.Count(result.Undone, "device"), result.Left)
	}
	if inv := result.Inventory; inv != nil {
		fmt.Fprintf(w, "Inventory: %d of %d devices described as server.device says\n", inv.Counts[string(mender.InventoryDone)], inv.Devices)
		for _, dev := range inv.Off[:min(len(inv.Off), 20)] {
			fmt.Fprintf(w, "  %s: %s %s\n", dev.State, identityText(dev.Identity), dev.Reason)
		}
	}
	for _, dev := range result.Lingering[:min(len(result.Lingering), 20)] {
		fmt.Fprintf(w, "  %s: %s %s\n", dev.Category, identityText(dev.Identity), dev.DeviceID)
	}
}

// identityText shows an identity as people write it.
func identityText(identity map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(identity)) {
		parts = append(parts, name+"="+identity[name])
	}
	return strings.Join(parts, " ")
}

// watchLot looks again and again until every device was accepted, and says what
// changed.
func (a *app) watchLot(ctx context.Context, l *station.Lot, o station.VerifyOptions, every time.Duration) error {
	ticker := time.NewTicker(max(every, time.Second))
	defer ticker.Stop()
	last := ""
	for {
		result, err := l.Compare(ctx, o)
		if err != nil {
			return err
		}
		now := summaryLine(result)
		if now != last {
			a.printf("%s  %s\n", time.Now().Format("15:04:05"), now)
			last = now
		}
		if result.Accepted == result.Devices-result.Counts[mender.CatUnexpected] {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func summaryLine(result station.Verified) string {
	line := ""
	for _, category := range slices.Backward(mender.Categories) {
		if n := result.Counts[category]; n > 0 {
			line = fmt.Sprintf("%d %s  ", n, category) + line
		}
	}
	return line
}
