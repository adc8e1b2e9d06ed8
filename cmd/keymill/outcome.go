package main

import (
	"cmp"
	"fmt"
	"time"

	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
)

// tellOutcome prints what a run came to, and returns its error.
func (a *app) tellOutcome(out station.Outcome, err error) error {
	if out.Verified != nil && !out.Verified.OK {
		printVerification(a.err, *out.Verified)
	}
	if !out.Settled {
		return err
	}
	if a.json {
		return cmp.Or(a.writeJSON(out.Totals), err)
	}
	a.printTotals(out.Totals)
	if out.Products != "" {
		a.printf("Products: %s\n", out.Products)
	}
	if out.Report != "" {
		a.printf("Report:   %s\n", out.Report)
	}
	if out.Failures != "" {
		a.printf("Failures: %s (run it again as a manifest, or `keymill retry %s`)\n", out.Failures, out.Lot.Name)
	}
	if n := out.KeyFiles.Destroyed; n > 0 {
		a.printf("Key files: %d overwritten and removed\n", n)
	}
	if n := out.KeyFiles.Left; n > 0 {
		fmt.Fprintf(a.err, "warning: %d key files could not be destroyed; the log says why\n", n)
	}
	if text := out.Described.String(); text != "" {
		a.printf("Inventory: %s\n", text)
	}
	if d := out.Described; d.Pending+d.Failed > 0 {
		fmt.Fprintf(a.err, "warning: the server's inventory does not describe all devices yet; `keymill retry %s --inventory` goes on\n", out.Lot.Name)
	}
	if out.Verified != nil {
		a.printf("Verified: %d of the lot's devices compared with the server, all as they should be.\n", out.Verified.Devices)
	}
	a.printf("Took %s.\n", out.Took.Round(10*time.Millisecond))
	return err
}

// printTotals shows a lot's balance; the lines add up.
func (a *app) printTotals(t pipeline.Totals) {
	a.printf("Lot %s: %d devices\n", t.Lot, t.Devices)
	for _, state := range pipeline.States {
		if n := *t.Count(state); n > 0 || state == pipeline.Released || state == pipeline.Failed || state == pipeline.Conflicted {
			a.printf("  %-14s %d\n", state, n)
		}
	}
	k := t.Keys
	made, word := k.Generated, "generated"
	if k.Imported > 0 {
		made, word = k.Generated+k.Imported, "imported"
	}
	a.printf("Keys: %d %s = %d released + %d destroyed + %d held for devices under way\n",
		made, word, k.Released, k.Destroyed, made-k.Released-k.Destroyed)
}
