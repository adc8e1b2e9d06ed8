package main

import (
	"github.com/spf13/cobra"

	"keymill/pipeline"
)

// wouldTouch is a device that a verb would work on. Its JSON is an element of
// `retry --dry-run --json` and `undo --dry-run --json`.
type wouldTouch struct {
	Device   string         `json:"device"`
	State    pipeline.State `json:"state"`
	Reason   string         `json:"reason,omitempty"`
	Key      string         `json:"key,omitempty"` // SPKI, SHA-256
	OnServer bool           `json:"on_server"`
}

// dryRun lists the lot's devices in these states. It takes no lock and asks no
// server.
func (a *app) dryRun(cmd *cobra.Command, lot string, states ...pipeline.State) error {
	view, err := a.openLot(cmd, lot)
	if err != nil {
		return err
	}
	defer view.Close()
	list := []wouldTouch{}
	for rec, err := range view.Records(cmd.Context(), lot, states...) {
		if err != nil {
			return err
		}
		w := wouldTouch{Device: rec.Identity.Name(), State: rec.State, Reason: rec.Reason, OnServer: rec.Auth.Status != ""}
		if len(rec.PublicKey) > 0 {
			w.Key = rec.Fingerprint()
		}
		list = append(list, w)
	}
	if a.json {
		return a.writeJSON(list)
	}
	for _, w := range list {
		a.printf("%-20s %-14s %s\n", w.Device, w.State, w.Reason)
	}
	a.printf("%d devices; nothing was changed\n", len(list))
	return nil
}
