package station

import (
	"context"
	"encoding/base64"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/reports"
)

// Signing is how this station signs the logs of a ledger: with an open signer,
// each head in the file beside the key before it is used.
func (s Signer) Signing(cfg *config.Config, known *ledger.Ledger) (reports.Signing, error) {
	heads, err := reports.OpenHeads(s.heads)
	if err != nil {
		return reports.Signing{}, fault.StorageOutage(err)
	}
	return reports.Signing{Station: cfg.Audit.Station, Signer: s.Signer, Custody: s.evidence(), Heads: heads, Journal: known}, nil
}

// headsPath is where the heads are kept that the station signs: beside the key that
// audit.signing_key names. Where none is named, or one in an HSM, it lies beside the
// ledger and is named after it, as ledgers in one folder share the key there.
func headsPath(cfg *config.Config) string {
	name := cfg.Audit.SigningKey
	if name == "" || strings.HasPrefix(name, "pkcs11:") {
		own := strings.TrimSuffix(filepath.Base(cfg.Ledger), filepath.Ext(cfg.Ledger))
		if strings.Contains(cfg.Ledger, "://") || own == "" {
			own = "keymill"
		}
		name = config.BesideLedger(cfg.Ledger, own+strings.TrimPrefix(SigningKeyFile, "keymill"))
	}
	return reports.HeadsFile(name)
}

// checkHeads refuses a ledger that lacks what this station signed, before more is
// written to it.
func (l *Lot) checkHeads(ctx context.Context) error {
	heads, err := reports.OpenHeads(headsPath(l.Config))
	if err != nil {
		return fault.StorageOutage(err)
	}
	err = heads.Check(ctx, l.Ledger, l.Config.Audit.Station, l.Name)
	if _, ok := errors.AsType[*reports.RolledBackError](err); ok {
		return fault.As(fault.Storage, err)
	}
	return err
}

// Sign signs this station's part of the lot as it stands, so that any station can
// export it.
func (l *Lot) Sign(ctx context.Context) error {
	if err := l.openSigner(ctx); err != nil {
		return err
	}
	signing, err := l.signer.Signing(l.Config, l.Ledger)
	if err != nil {
		return err
	}
	return reports.SignLot(ctx, l.Ledger, l.Name, signing)
}

// SignRetired signs the last heads of a retired station's lots in this station's
// log, and says why.
func SignRetired(ctx context.Context, o Options, cfg *config.Config, known *ledger.Ledger, lots []pipeline.Lot, retired, reason string) (err error) {
	key, err := o.Signer(ctx, cfg, logs.New(cfg.Log, o.Hooks.LogTo))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	signing, err := key.Signing(cfg, known)
	if err != nil {
		return err
	}
	for _, lot := range lots {
		if err := reports.SignFor(ctx, known, lot.Name, retired, reason, signing); err != nil {
			return err
		}
		if err := known.SignedBy(ctx, lot.Name, retired, cfg.Audit.Station); err != nil {
			return err
		}
	}
	return nil
}

// RestartLogs begins the next epoch of each log of which this station signed more
// than the ledger has, and returns how many there are. What was lost stays lost:
// bundles say so.
func RestartLogs(ctx context.Context, cfg *config.Config, known *ledger.Ledger, reason string) (int, error) {
	heads, err := reports.OpenHeads(headsPath(cfg))
	if err != nil {
		return 0, fault.StorageOutage(err)
	}
	if err := haveStationLog(ctx, cfg.Audit.Station, known, reason); err != nil {
		return 0, err
	}
	lots, err := known.Lots(ctx)
	if err != nil {
		return 0, err
	}
	names := []string{""}
	for _, lot := range lots {
		names = append(names, lot.Name)
	}
	n := 0
	for _, lot := range names {
		restarts, err := reports.Restarts(ctx, known, heads, cfg.Audit.Station, lot)
		if err != nil {
			return n, err
		}
		for _, one := range restarts {
			if one.Log.Kind == pipeline.LogStation && lot != "" {
				continue
			}
			one.Event.Reason = reason
			one.Event.Facts = slices.DeleteFunc(one.Event.Facts, func(a pipeline.Attr) bool { return !strings.HasPrefix(a.Name, "kept_") })
			if err := known.RestartLog(ctx, one.Log.Origin, one.Signed, one.Root, one.Event); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// haveStationLog makes the station's log in a ledger that has none.
func haveStationLog(ctx context.Context, station string, known *ledger.Ledger, reason string) error {
	logs, err := known.Logs(ctx, "")
	if err != nil || slices.ContainsFunc(logs, func(l pipeline.Log) bool { return l.Kind == pipeline.LogStation && l.Station == station }) {
		return err
	}
	_, err = known.Append(ctx, pipeline.Event{Station: station, Action: pipeline.ActionRestore, Reason: reason})
	return err
}

// evidence is what the evidence says of where the key lies.
func (s Signer) evidence() reports.Custody {
	c := s.Custody
	if c == nil {
		return reports.Custody{Kind: "file"}
	}
	said := reports.Custody{Kind: "hsm", Extractable: "no",
		Token:  strings.TrimSpace(strings.Join([]string{c.TokenModel, c.TokenSerial, c.TokenLabel}, " ")),
		Module: strings.TrimSpace(c.Module + " " + c.ModuleVersion)}
	if c.Extractable {
		said.Extractable = "yes"
	}
	if len(c.Certificates) > 0 {
		said.Certificate = base64.StdEncoding.EncodeToString(c.Certificates[0])
	}
	return said
}

// exporting is what an export by this station is made of.
func exporting(signing reports.Signing, formats []string) reports.Options {
	return reports.Options{Formats: formats, Station: signing.Station, Signer: signing.Signer, Custody: signing.Custody,
		Heads: signing.Heads, Journal: signing.Journal, MadeBy: "keymill " + build.Version()}
}

// Exporting returns what an export by this station is made of: the caller adds what
// is special to it.
func (s Signer) Exporting(cfg *config.Config, known *ledger.Ledger, formats []string) (reports.Options, error) {
	signing, err := s.Signing(cfg, known)
	return exporting(signing, formats), err
}

// signPart signs this station's part of a lot that several work on, and returns
// the name of one whose part is not signed as it stands, "" where all are.
func (l *Lot) signPart(ctx context.Context) (missing string, err error) {
	if err := l.Sign(ctx); err != nil {
		return "", err
	}
	logs, err := l.Ledger.Logs(ctx, l.Name)
	if err != nil {
		return "", err
	}
	for _, log := range logs {
		if log.Kind != pipeline.LogLot || log.Size == 0 || log.Station == l.Config.Audit.Station {
			continue
		}
		size, _, err := l.Ledger.Head(ctx, log.Origin)
		if err != nil {
			return "", err
		}
		if size != log.Size {
			return log.Station, nil
		}
	}
	return "", nil
}
