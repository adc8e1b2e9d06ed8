package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/hsm"
)

// table is what the HSM's reports are.
type table interface{ WriteTable(w io.Writer) error }

func (a *app) hsmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hsm",
		Short: "The token: what it can do, how fast, what was left behind",
		Long: `The token is named by --hsm or keys.hsm as an RFC 7512 URI:

  pkcs11:token=factory?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/pin`,
		Example: "  keymill hsm list --hsm 'pkcs11:token=factory?module-path=/usr/lib/softhsm/libsofthsm2.so'",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.hsmListCmd(), a.hsmTestCmd(), a.hsmBenchCmd(), a.hsmGCCmd(), hsmCeremonyCmd())
	return cmd
}

func (a *app) hsmListCmd() *cobra.Command {
	var keys bool
	list := a.hsmVerb("list", "Show the module's tokens and what they say of themselves", nil, func(ctx context.Context, _ *hsmCall, c hsm.Config) (table, error) {
		if keys {
			return hsm.Inventory(ctx, c)
		}
		return hsm.List(ctx, c)
	})
	list.Flags().BoolVar(&keys, "objects", false, "list the token's key pairs as well; needs the PIN")
	return list
}

func (a *app) hsmTestCmd() *cobra.Command {
	var algorithms []string
	test := a.hsmVerb("test", "Try for real what the token can do, and say what to use it for", hsm.OpenJournal, func(ctx context.Context, call *hsmCall, c hsm.Config) (table, error) {
		var wanted []hsm.Algorithm
		for _, name := range algorithms {
			algorithm, err := hsm.ParseAlgorithm(name)
			if err != nil {
				return nil, fault.As(fault.Usage, err)
			}
			wanted = append(wanted, algorithm)
		}
		if !a.json {
			c.Progress = func(done string) { fmt.Fprintln(a.err, done) }
		}
		report, err := hsm.Test(ctx, c, wanted...)
		if err != nil {
			return nil, err
		}
		return report, call.tryAuditKey(ctx, report)
	})
	test.Flags().StringSliceVar(&algorithms, "algorithm", nil, "key algorithms to try (default all; RSA takes a token its time)")
	test.Long = test.Short + ".\n\nKeys are made, wrapped, unwrapped, signed with and destroyed. Nothing is left in the token.\n" +
		"The audit key is tried, too, where audit.signing_key names one in a token."
	return test
}

func (a *app) hsmBenchCmd() *cobra.Command {
	var sessions []int
	bench := a.hsmVerb("bench", "Measure keys a second by algorithm and sessions", hsm.OpenJournal, func(ctx context.Context, _ *hsmCall, c hsm.Config) (table, error) {
		if slices.ContainsFunc(sessions, func(n int) bool { return n < 1 }) {
			return nil, fault.Usagef("--sessions %v: each must be 1 or more", sessions)
		}
		return hsm.Bench(ctx, c, hsm.BenchOptions{Sessions: sessions})
	})
	bench.Flags().IntSliceVar(&sessions, "sessions", nil, "numbers of sessions to try (default 1,2,4,8)")
	return bench
}

func (a *app) hsmGCCmd() *cobra.Command {
	var opts hsm.GCOptions
	gc := a.hsmVerb("gc", "Show what crashes left in the token; with --destroy, remove it", hsm.OpenJournalAlone, func(ctx context.Context, call *hsmCall, c hsm.Config) (table, error) {
		return station.GC(ctx, call.cfg, c, opts)
	})
	gc.Flags().BoolVar(&opts.Destroy, "destroy", false, "destroy what is found; without it nothing is changed")
	gc.Flags().BoolVar(&opts.Torn, "torn", false, "with --destroy: also halves of key pairs, which may be another program's")
	return gc
}

// hsmCall is one call of an HSM verb.
type hsmCall struct {
	cfg *config.Config
	opt *station.Options
	log *slog.Logger
}

// tryAuditKey adds to a report whether the audit key signs, where it is in a token.
func (c *hsmCall) tryAuditKey(ctx context.Context, report *hsm.TestReport) error {
	if !strings.HasPrefix(c.cfg.Audit.SigningKey, "pkcs11:") {
		return nil
	}
	signer, err := c.opt.Signer(ctx, c.cfg, c.log)
	if err == nil {
		err = signer.Close()
	}
	report.Add("the audit key signs, and its public half verifies", err)
	return nil
}

// hsmVerb is a verb that makes one report about each configured token.
func (a *app) hsmVerb(name, short string, journal func(path string) (*hsm.FileJournal, error),
	run func(context.Context, *hsmCall, hsm.Config) (table, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Example: "  keymill hsm " + name + " --hsm 'pkcs11:token=factory?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/pin'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			o := a.options(cmd)
			log := logs.New(cfg.Log, a.err)
			configs, journal, err := o.HSMConfigs(cfg, log, journal)
			if err != nil {
				return err
			}
			defer journal.Close()
			var reports []table
			for _, config := range configs {
				report, err := run(cmd.Context(), &hsmCall{cfg, &o, log}, config)
				if err != nil {
					return fault.OfHSM(cmd.Context(), err)
				}
				reports = append(reports, report)
			}
			return a.writeReports(reports)
		},
	}
	addSettings(cmd, "hsm")
	a.jsonFlag(cmd)
	return cmd
}

// writeReports writes one report, or a list of several.
func (a *app) writeReports(reports []table) error {
	switch {
	case a.json && len(reports) == 1:
		return a.writeJSON(reports[0])
	case a.json:
		return a.writeJSON(reports)
	}
	for i, report := range reports {
		if i > 0 {
			a.printf("\n")
		}
		if err := report.WriteTable(a.out); err != nil {
			return err
		}
	}
	return nil
}
