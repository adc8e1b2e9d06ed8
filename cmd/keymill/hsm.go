package main

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
	"keymill/hsm"
	"keymill/pipeline"
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
	var sessions []int
	var keys, destroy bool
	list := a.hsmVerb("list", "Show the module's tokens and what they say of themselves", nil, func(ctx context.Context, _ *config.Config, c hsm.Config) (table, error) {
		if keys {
			return hsm.Inventory(ctx, c)
		}
		return hsm.List(ctx, c)
	})
	list.Flags().BoolVar(&keys, "objects", false, "list the token's key pairs as well; needs the PIN")
	test := a.hsmVerb("test", "Try for real what the token can do", hsm.OpenJournal, func(ctx context.Context, _ *config.Config, c hsm.Config) (table, error) {
		return hsm.Test(ctx, c)
	})
	bench := a.hsmVerb("bench", "Measure keys a second by algorithm and sessions", hsm.OpenJournal, func(ctx context.Context, _ *config.Config, c hsm.Config) (table, error) {
		if slices.ContainsFunc(sessions, func(n int) bool { return n < 1 }) {
			return nil, fault.Usagef("--sessions %v: each must be 1 or more", sessions)
		}
		return hsm.Bench(ctx, c, hsm.BenchOptions{Sessions: sessions})
	})
	bench.Flags().IntSliceVar(&sessions, "sessions", nil, "numbers of sessions to try (default 1,2,4,8)")
	gc := a.hsmVerb("gc", "Show what crashes left in the token; with --destroy, remove it", hsm.OpenJournalAlone, func(ctx context.Context, cfg *config.Config, c hsm.Config) (table, error) {
		return a.hsmGC(ctx, cfg, c, destroy)
	})
	gc.Flags().BoolVar(&destroy, "destroy", false, "destroy what is found; without it nothing is changed")
	cmd.AddCommand(list, test, bench, gc)
	return cmd
}

// hsmVerb is a verb that makes one report about the configured token.
func (a *app) hsmVerb(name, short string, journal func(path string) (*hsm.FileJournal, error),
	run func(context.Context, *config.Config, hsm.Config) (table, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Example: "  keymill hsm " + name + " --hsm 'pkcs11:token=factory?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/pin'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			o := a.options(cmd)
			config, journal, err := o.HSMConfig(cfg, logs.New(cfg.Log, a.err), journal)
			if err != nil {
				return err
			}
			defer journal.Close()
			report, err := run(cmd.Context(), cfg, config)
			if err != nil {
				return fault.OfHSM(cmd.Context(), err)
			}
			if a.json {
				return a.writeJSON(report)
			}
			return report.WriteTable(a.out)
		},
	}
	addSettings(cmd, "hsm")
	a.jsonFlag(cmd)
	return cmd
}

// hsmGC asks journal and ledger what belongs to nobody.
func (a *app) hsmGC(ctx context.Context, cfg *config.Config, config hsm.Config, destroy bool) (*hsm.GCReport, error) {
	journal, ok := config.Journal.(*hsm.FileJournal)
	if !ok {
		return nil, errors.New("the journal is not a file")
	}
	inUse, err := keysInUse(ctx, cfg.Ledger)
	if err != nil {
		return nil, err
	}
	opts := hsm.GCOptions{Destroy: destroy, Journaled: journal.Open()}
	if inUse != nil {
		opts.InUse = func(_ context.Context, public []byte) (bool, error) { return inUse[pipeline.Fingerprint(public)], nil }
	}
	return hsm.GC(ctx, config, opts)
}

// keysInUse returns the fingerprints of all devices' keys that stay in tokens,
// nil where there is no ledger that could tell. The keys of devices that were
// taken back or that another lot took over are nobody's any more.
func keysInUse(ctx context.Context, path string) (map[string]bool, error) {
	known, err := station.OpenKnown(ctx, path)
	if err != nil || known == nil {
		return nil, err
	}
	defer known.Close()
	lots, err := known.Lots(ctx)
	if err != nil {
		return nil, err
	}
	inUse := map[string]bool{}
	for _, lot := range lots {
		if lot.Keys != pipeline.KeysInToken {
			continue
		}
		for rec, err := range known.Records(ctx, lot.Name) {
			if err != nil {
				return nil, err
			}
			taken := rec.State == pipeline.Undone || rec.Superseded != "" && rec.Pack.IsZero()
			if !taken && len(rec.PublicKey) > 0 {
				inUse[rec.Fingerprint()] = true
			}
		}
	}
	return inUse, nil
}
