package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
)

func (a *app) undoCmd() *cobra.Command {
	var yes, dry, stay, wait bool
	cmd := &cobra.Command{
		Use:   "undo LOT",
		Short: "Take a lot back: its keys off the server, then destroyed",
		Long: `Undo removes the lot's own keys from the server (a device that has others keeps them),
destroys the lot's private keys, images included, and records both. Devices that
shipped already can no longer connect. Keys that stay in a token are destroyed
there; where it has shipped, --keys-stay leaves them. It asks for the lot's name,
and can be interrupted and run again. The server deletes devices in its own time;
--wait waits until it is done.

` + exitCodesHelp,
		Example: "  keymill undo 2026-W47\n  keymill undo 2026-W47 --dry-run\n  keymill undo 2026-W47 --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.dryRun(cmd, args[0], pipeline.Planned, pipeline.Staged, pipeline.Preauthorized, pipeline.Released, pipeline.Failed, pipeline.Conflicted)
			}
			l, err := station.OpenPlanned(cmd.Context(), a.options(cmd), args[0])
			if err != nil {
				return err
			}
			defer l.Close()
			if !yes && !a.confirmed(args[0], "This takes lot "+args[0]+" off the server and destroys its keys. Type the lot's name to go on: ") {
				return fault.As(fault.Usage, pipeline.WithHint(errors.New("not confirmed; nothing was changed"),
					"Type the lot's name when asked, or give --yes."))
			}
			return a.undo(cmd.Context(), l, stay, wait)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for the lot's name")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be taken back; change nothing")
	cmd.Flags().BoolVar(&stay, "keys-stay", false, "leave keys that stay in a token there, because it has shipped")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the server has deleted the devices, an hour at most")
	addSettings(cmd, "server", "token-file", "ca-file", "in-flight", "hsm")
	a.jsonFlag(cmd)
	return cmd
}

// undo takes a lot back and says what it came to.
func (a *app) undo(ctx context.Context, l *station.Lot, stay, wait bool) error {
	o := station.UndoOptions{KeysStay: stay}
	if wait {
		o.Wait = time.Hour
		o.Waiting = func(left int) { fmt.Fprintf(a.err, "The server is still deleting %s.\n", say.Count(left, "device")) }
	}
	done, err := l.Undo(ctx, o)
	if err != nil {
		return err
	}
	if a.json {
		err = a.writeJSON(done.Totals)
	} else {
		a.printTotals(done.Totals)
	}
	switch {
	case done.Stay:
		fmt.Fprintln(a.err, "The devices' keys are still in their tokens; `keymill hsm gc --destroy` removes them from one that is here.")
	case done.Missing > 0:
		fmt.Fprintf(a.err, "Not in this token: %s. `keymill hsm gc --destroy` with another one in --hsm removes what that has of this lot.\n",
			say.Count(done.Missing, "key"))
	}
	if done.Deleting > 0 {
		fmt.Fprintf(a.err, "The server is still deleting %s; `keymill verify %s` shows when it is done:\n", say.Count(done.Deleting, "device"), l.Name)
		for _, dev := range done.DeletingFirst[:min(len(done.DeletingFirst), 20)] {
			fmt.Fprintf(a.err, "  %s %s\n", identityText(dev.Identity), dev.DeviceID)
		}
	}
	if err == nil && wait && done.Deleting > 0 {
		err = fault.Told(fault.Devices, "%d devices are still being deleted", done.Deleting)
	}
	if err == nil && done.Failed > 0 {
		err = fault.Told(fault.Devices, "%d devices could not be taken off the server", done.Failed)
	}
	return err
}

// confirmed asks for a name that has to be typed before something is destroyed.
func (a *app) confirmed(name, question string) bool {
	fmt.Fprint(a.err, question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	return (err == nil || line != "") && strings.TrimSpace(line) == name
}
