package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

func (a *app) undoCmd() *cobra.Command {
	var yes, dry, stay bool
	cmd := &cobra.Command{
		Use:   "undo LOT",
		Short: "Take a lot back: its keys off the server, then destroyed",
		Long: `Undo removes the lot's own keys from the server (a device that has others keeps them),
destroys the lot's private keys, images included, and records both. Devices that
shipped already can no longer connect. Keys that stay in a token are destroyed
there; where it has shipped, --keys-stay leaves them. It asks for the lot's name,
and can be interrupted and run again.

` + exitCodesHelp,
		Example: "  keymill undo 2026-W47\n  keymill undo 2026-W47 --dry-run\n  keymill undo 2026-W47 --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.dryRun(cmd, args[0], pipeline.Planned, pipeline.Staged, pipeline.Preauthorized, pipeline.Released, pipeline.Failed, pipeline.Conflicted)
			}
			j, err := a.openPlanned(cmd, args[0])
			if err != nil {
				return err
			}
			defer j.Close()
			if !yes && !a.confirmed(args[0]) {
				return fault.As(fault.Usage, pipeline.WithHint(errors.New("not confirmed; nothing was changed"),
					"Type the lot's name when asked, or give --yes."))
			}
			return j.undo(cmd.Context(), stay)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for the lot's name")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be taken back; change nothing")
	cmd.Flags().BoolVar(&stay, "keys-stay", false, "leave keys that stay in a token there, because it has shipped")
	addSettings(cmd, "server", "token-file", "ca-file", "in-flight", "hsm")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) confirmed(lot string) bool {
	fmt.Fprintf(a.err, "This takes lot %s off the server and destroys its keys. Type the lot's name to go on: ", lot)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	return (err == nil || line != "") && strings.TrimSpace(line) == lot
}

// undoing is a lot being taken back.
type undoing struct {
	*job
	pack  *imaging.Pack // nil where there is none
	token *kept         // nil where keys don't stay in one, or are left there
	stay  bool          // keys are left in their tokens
	run   int64

	mu    sync.Mutex
	queue []*pipeline.Record // guarded by mu; handed to the server's part, in order
}

// undo takes every device back that is not yet: server first, so that a key
// that still opens a door is never destroyed unseen.
func (j *job) undo(ctx context.Context, stay bool) (err error) {
	if j.server, err = j.app.openServer(j.cfg, j.log); err != nil {
		return err
	}
	u := &undoing{job: j, stay: stay && j.lot.Keys == pipeline.KeysInToken}
	if !u.stay {
		if u.token, err = j.openKept(ctx); err != nil {
			return keysMayStay(ctx, err)
		}
		defer u.token.Close()
	}
	u.pack, err = imaging.OpenPack(packPath(j.lot))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.StorageOutage(err)
	}
	if u.pack != nil {
		defer u.pack.Close()
	}
	u.run, err = j.ledger.Append(ctx, pipeline.Event{
		Station: j.cfg.Audit.Station, Lot: j.lot.Name, Action: pipeline.ActionRun, Reason: "undo",
		Facts: facts(map[string]string{"operator": j.cfg.Audit.Operator, "tool": "keymill " + build.Version(), "tool_sha256": build.Hash()}),
	})
	if err != nil {
		return err
	}
	failed, err := u.all(ctx)
	if err != nil {
		return err
	}
	if failed == 0 {
		// Its identifiers can be had again, but only by who asks for such.
		if _, err := j.ledger.Deallocate(ctx, j.lot.Name); err != nil {
			return err
		}
	}
	totals, err := j.ledger.Totals(ctx, j.lot.Name)
	if err != nil {
		return err
	}
	if j.app.json {
		err = j.app.writeJSON(totals)
	} else {
		j.app.printTotals(totals)
	}
	switch {
	case u.stay:
		fmt.Fprintln(j.app.err, "The devices' keys are still in their tokens; `keymill hsm gc --destroy` removes them from one that is here.")
	case u.token != nil && u.token.missing > 0:
		fmt.Fprintf(j.app.err, "Not in this token: %s. `keymill hsm gc --destroy` with another one in --hsm removes what that has of this lot.\n",
			say.Count(u.token.missing, "key"))
	}
	if err == nil && failed > 0 {
		err = fault.Told(fault.Devices, "%d devices could not be taken off the server", failed)
	}
	return err
}

func (u *undoing) all(ctx context.Context) (failed int, err error) {
	for done, err := range u.server.Undo(ctx, u.onServer(ctx)) {
		if err != nil {
			return failed, err
		}
		rec := u.next()
		if done.Removal == mender.Failed {
			failed++
			u.log.Warn("cannot be taken off the server", "device", rec.Identity.Name(), "reason", done.Err)
			continue
		}
		if err := u.destroy(ctx, rec, string(done.Removal)); err != nil {
			return failed, err
		}
	}
	for rec, err := range u.ledger.Records(ctx, u.lot.Name, pipeline.Planned, pipeline.Failed) {
		if err != nil {
			return failed, err
		}
		if len(rec.PublicKey) > 0 {
			continue // it failed just now
		}
		if err := u.destroy(ctx, rec, "never-sent"); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// onServer yields the devices whose keys the server may have.
func (u *undoing) onServer(ctx context.Context) iter.Seq2[mender.Expected, error] {
	states := []pipeline.State{pipeline.Staged, pipeline.Preauthorized, pipeline.Released, pipeline.Failed, pipeline.Conflicted}
	return func(yield func(mender.Expected, error) bool) {
		for rec, err := range u.ledger.Records(ctx, u.lot.Name, states...) {
			if err != nil {
				yield(mender.Expected{}, err)
				return
			}
			if len(rec.PublicKey) == 0 {
				continue
			}
			u.mu.Lock()
			u.queue = append(u.queue, rec)
			u.mu.Unlock()
			if !yield(mender.Expected{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}, nil) {
				return
			}
		}
	}
}

func (u *undoing) next() *pipeline.Record {
	u.mu.Lock()
	defer u.mu.Unlock()
	rec := u.queue[0]
	u.queue = u.queue[1:]
	return rec
}

// destroy destroys a device's key wherever it lies, and records it.
func (u *undoing) destroy(ctx context.Context, rec *pipeline.Record, removal string) error {
	fate := pipeline.KeyInToken
	if !u.stay {
		var err error
		if fate, err = u.token.destroy(ctx, rec); err != nil {
			return err
		}
	}
	if u.pack != nil && !rec.Pack.IsZero() {
		if err := u.pack.Destroy(imaging.Ref(rec.Pack)); err != nil {
			return fault.StorageOutage(err)
		}
	}
	if err := removeImage(u.lot, rec); err != nil {
		return err
	}
	changes := pipeline.Transitions{Ledger: u.ledger, Station: u.cfg.Audit.Station, Run: u.run}
	return changes.Undone(ctx, rec, removal, fate)
}

// removeImage removes the published image of a device, whose key it holds.
func removeImage(lot pipeline.Lot, rec *pipeline.Record) error {
	if rec.Output.Name == "" {
		return nil
	}
	err := os.Remove(filepath.Join(lot.Out, "images", rec.Output.Name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.StorageOutage(err)
	}
	return nil
}
