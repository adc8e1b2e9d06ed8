package main

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/dropfolder"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) batchCmd() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "batch DIR",
		Short: "Run the manifests of a drop folder, one lot after the other",
		Long: `Batch takes manifests (*.csv, *.xlsx) from DIR/in, in the order of their names, and
runs each as the lot of its name. What is unfinished in DIR/work goes first. Closed
lots go to DIR/done/LOT with their report, refused manifests to DIR/refused with
NAME.problems.txt and NAME.problems.json beside them. Lots with failed devices stay
in DIR/work, and the next batch tries those again; products lie in out/LOT, as with
"keymill run".

A manifest is taken when it has not changed for batch.settle (2s) and no process on
this machine writes to it. Names that begin with a dot or end otherwise than in .csv
or .xlsx are left alone: write NAME.csv.part and rename it. One that is found to have
grown after it was taken goes to DIR/refused, as not all of it was made.

One batch at a time works on a folder. SIGTERM ends the steps under way and stops.
The exit code is the worst that any lot had, in the order 0, 3, 4, 2, 5, 6, 7, 1, or
130 when it was stopped. When server or HSM are out of order (5, 6) the batch ends,
as the next lot would meet that, too. With --watch, batch goes on waiting for
manifests, and ends with 0 when it is stopped while idle.

` + exitCodesHelp,
		Example: "  keymill batch /var/lib/keymill\n  keymill batch /var/lib/keymill --watch",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.batch(cmd, args[0], watch)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on waiting for manifests")
	cmd.Flags().StringVar(&a.verifyHow, "verify", station.VerifySample, "compare with the server at each lot's end: all, sample or none")
	names := slices.DeleteFunc(slices.Clone(lineSettings), func(name string) bool { return name == "out" })
	addSettings(cmd, append([]string{"expect", "sheet"}, names...)...)
	cmd.Flags().BoolVar(&a.json, "json", false, "print each lot's outcome as JSON when it ends")
	return cmd
}

// batch works on a drop folder.
func (a *app) batch(cmd *cobra.Command, dir string, watch bool) error {
	o, err := a.batchOptions(cmd, dir, watch)
	if err != nil {
		return err
	}
	kind, err := dropfolder.Run(cmd.Context(), o)
	switch {
	case err != nil || kind == fault.None:
		return err
	case kind == fault.Interrupted:
		return fault.As(fault.Interrupted, context.Canceled)
	}
	return fault.Told(kind, "the worst of the batch's lots ended with %d", kind.ExitCode())
}

// batchOptions leads what happens in the drop folder to the terminal.
func (a *app) batchOptions(cmd *cobra.Command, dir string, watch bool) (o dropfolder.Options, err error) {
	if err := a.checkVerifyHow(); err != nil {
		return o, err
	}
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return o, err
	}
	told := *a
	if a.json {
		told.json, told.out = false, io.Discard
	}
	return dropfolder.Options{
		Dir: dir, Watch: watch, Config: cfg, Station: a.options(cmd), Log: logs.New(cfg.Log, a.err),
		HookOut: a.err, Verb: cmd.CommandPath(),
		Begins:  func(manifest string) { told.printf("== %s\n", manifest) },
		Settled: told.tellOutcome,
		Fault: func(err error) {
			if !errors.Is(err, context.Canceled) { // the batch says so, at its own end
				report(a.stdio, err)
			}
		},
		Ended: func(r dropfolder.Result) error {
			if a.json {
				return a.writeJSON(r)
			}
			if r.Moved != "" {
				a.printf("Manifest: %s\n", r.Moved)
			}
			return nil
		},
	}, nil
}
