package main

import (
	"context"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/notify"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/telemetry"
)

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, the server, the HSM and the configuration",
		Long: "Doctor changes nothing. It ends with the exit code of the first thing that is wrong,\n" +
			"and says which settings are in force and where they were set (see `keymill config`).\n\n" + exitCodesHelp,
		Example: "  keymill doctor\n  keymill doctor --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd) },
	}
	addSettings(cmd, lineSettings...)
	a.jsonFlag(cmd)
	return cmd
}

// finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
	kind   fault.Kind
}

func (a *app) doctor(cmd *cobra.Command) error {
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	findings := []finding{found("configuration", "readable, nothing unknown in it", err)}
	if err == nil {
		o := a.options(cmd)
		checks := append(o.Checks(cfg), station.Check{Name: "told", Run: func(context.Context) (string, error) { return notify.Check(cfg, a.env) }},
			station.Check{Name: "telemetry", Run: func(ctx context.Context) (string, error) { return telemetry.Check(ctx, cfg, a.env) }})
		for _, check := range checks {
			detail, err := check.Run(ctx)
			findings = append(findings, found(check.Name, detail, err))
		}
	}
	if a.json {
		if err := a.writeJSON(findings); err != nil {
			return err
		}
	} else {
		a.printFindings(findings)
		if err == nil {
			if err := a.printChanged(cfg); err != nil {
				return err
			}
		}
	}
	for _, f := range findings {
		if !f.OK {
			return fault.Told(f.kind, "%s: %s", f.Check, f.Detail)
		}
	}
	return nil
}

func found(check, detail string, err error) finding {
	if err == nil {
		return finding{Check: check, OK: true, Detail: detail}
	}
	return finding{Check: check, Detail: err.Error(), Hint: fault.Hint(err), kind: fault.KindOf(err)}
}

func (a *app) printFindings(findings []finding) {
	for _, f := range findings {
		mark := "ok  "
		if !f.OK {
			mark = "FAIL"
		}
		a.printf("%s  %-14s %s\n", mark, f.Check, f.Detail)
		if f.Hint != "" {
			a.printf("      hint: %s\n", f.Hint)
		}
	}
}
