package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) watchCmd() *cobra.Command {
	var o station.WatchOptions
	var silentDays int
	cmd := &cobra.Command{
		Use:   "watch LOT",
		Short: "Follow a lot's first boots",
		Long: `Watch says which devices of a lot have come up, when, and which ask with another key
or another identity, with what to look at. It ends when all have come up. It asks the
server for many devices in one request; with --webhook it listens for Mender's webhook
(device-status-changed, signed with the secret in --webhook-secret-file) and looks at
once when something happens. --silent counts devices that were released so many days
ago and were never seen; with --once it ends with 4 if there are any.

` + exitCodesHelp,
		Example: "  keymill watch 2026-W47\n  keymill watch 2026-W47 --once --silent 90\n" +
			"  keymill watch 2026-W47 --webhook 127.0.0.1:8095 --webhook-secret-file webhook-secret --every 15m",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Silent = time.Duration(silentDays) * 24 * time.Hour
			return a.watchFirstBoots(cmd, args[0], o)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.Every, "every", 30*time.Second, "time between two looks")
	flags.BoolVar(&o.Once, "once", false, "look once")
	flags.IntVar(&silentDays, "silent", 0, "count devices that were released so many days ago and were never seen")
	flags.StringVar(&o.Listen, "webhook", "", "address to receive Mender's webhook on")
	flags.StringVar(&o.SecretFile, "webhook-secret-file", "", "file that holds the webhook's secret")
	addSettings(cmd, "server", "token-file", "ca-file", "in-flight")
	a.jsonFlag(cmd)
	return cmd
}

// watchFirstBoots prints what happens, one line each; JSON lines with --json.
func (a *app) watchFirstBoots(cmd *cobra.Command, lot string, o station.WatchOptions) error {
	l, err := station.OpenPlanned(cmd.Context(), a.options(cmd), lot)
	if err != nil {
		return err
	}
	defer l.Close()
	o.Ready = func(address string) { fmt.Fprintf(a.err, "Listening for Mender's webhook on http://%s\n", address) }
	var broken error
	o.Told = func(b station.Boot) {
		if a.json {
			if err := json.NewEncoder(a.out).Encode(b); err != nil && broken == nil {
				broken = err
			}
			return
		}
		when := "              -"
		if !b.Time.IsZero() && b.Time.Year() > 1 {
			when = b.Time.Format("2006-01-02 15:04")
		}
		a.printf("%s  row %-6d %-24s %s\n", when, b.Row, identityText(b.Identity), b.What)
		if b.Advice != "" {
			a.printf("    %s\n", b.Advice)
		}
	}
	found, err := l.Watch(cmd.Context(), o)
	if err != nil {
		return err
	}
	if broken != nil {
		return broken
	}
	if a.json {
		if err := json.NewEncoder(a.out).Encode(found); err != nil {
			return err
		}
	} else {
		a.printf("%d of %d devices have come up, %d wait, %d are not as they should be", found.Accepted, found.Devices, found.Waiting, found.Off)
		if o.Silent > 0 {
			a.printf(", %d were never seen for %d days", found.Silent, int(o.Silent.Hours()/24))
		}
		a.printf("\n")
	}
	if o.Once && found.Silent > 0 {
		return fault.Told(fault.Devices, "%d devices are silent", found.Silent)
	}
	return nil
}
