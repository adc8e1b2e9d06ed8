package station

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/pipeline"
)

// checkTokens refuses what can't name a token, before it is looked for.
func (o *Options) checkTokens(cfg *config.Config) error {
	k := &cfg.Keys
	if k.HSM.First() == "" {
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("no HSM is named"),
			"Give --hsm 'pkcs11:token=LABEL?module-path=/usr/lib/../libmodule.so&pin-source=/path/to/pin', or set keys.hsm."))
	}
	for _, entry := range k.HSM.URIs() {
		uri, err := hsm.ParseURI(entry)
		if err != nil {
			return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("keys.hsm: %w", err),
				"Write pkcs11:token=LABEL?module-path=/path/to/module.so&pin-source=/path/to/pin; `keymill hsm list --hsm 'pkcs11:?module-path=..'` shows each token's URI."))
		}
		if err := o.guardPINs(cfg, entry, uri); err != nil {
			return err
		}
	}
	for name, n := range map[string]int64{
		"sessions": int64(k.Sessions), "token_objects": int64(k.TokenObjects), "limit": int64(k.Limit), "timeout": int64(k.Timeout),
	} {
		if n < 0 {
			return fault.Usagef("keys.%s is less than 0", name)
		}
	}
	return nil
}

// guardPINs refuses a PIN where others can see it: on the command line, or in a
// file that everybody can read.
func (o *Options) guardPINs(cfg *config.Config, entry string, uri *hsm.URI) error {
	from := cfg.Where("keys.hsm")
	switch {
	case uri.PINValue == "":
		return o.Settings.Env.GuardPIN("keys.hsm", entry)
	case strings.HasPrefix(from, "--"):
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("a PIN on the command line is there for everybody to see"),
			"Write it into a file (chmod 600), and name that with pin-source instead of pin-value; if others were on this machine meanwhile, change the PIN, too."))
	case strings.ContainsAny(from, "./"): // a file, and no variable
		return o.Settings.Env.GuardSecret("pin-value in keys.hsm", from)
	}
	return nil
}

// GC asks journal and ledger what belongs to nobody.
func GC(ctx context.Context, cfg *config.Config, config hsm.Config, opts hsm.GCOptions) (*hsm.GCReport, error) {
	journal, ok := config.Journal.(*hsm.FileJournal)
	if !ok {
		return nil, errors.New("the journal is not a file")
	}
	inUse, err := keysInUse(ctx, cfg.Ledger)
	if err != nil {
		return nil, err
	}
	opts.Journaled = journal.Open()
	if inUse != nil {
		opts.InUse = func(_ context.Context, public []byte) (bool, error) { return inUse[pipeline.Fingerprint(public)], nil }
	}
	return hsm.GC(ctx, config, opts)
}

// keysInUse returns the fingerprints of all devices' keys that stay in tokens,
// nil where there is no ledger that could tell. The keys of devices that were
// taken back or that another lot took over are nobody's any more.
func keysInUse(ctx context.Context, path string) (map[string]bool, error) {
	known, err := OpenKnown(ctx, path)
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
