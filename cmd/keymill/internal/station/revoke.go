package station

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm/ca"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Revoke records that a device's certificate doesn't hold any more. It takes
// effect with the next revocation list.
func (v *View) Revoke(ctx context.Context, device string, reason ca.Reason) (*pipeline.Record, error) {
	rec, err := v.Device(ctx, device)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.Cert.Serial == "":
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s has no certificate", rec.Identity), "`keymill cert show LOT` lists those that have one."))
	case !rec.Cert.Revoked.IsZero():
		return nil, fault.As(fault.Usage, fmt.Errorf("the certificate of %s is revoked since %s (%s)", rec.Identity, rec.Cert.Revoked.Format(time.RFC3339), rec.Cert.RevokedReason))
	}
	changes := pipeline.Transitions{Ledger: v.Ledger, Station: v.Config.Audit.Station}
	return rec, changes.CertRevoked(ctx, rec, string(reason))
}

// Revoked returns the certificates of all lots that don't hold any more. The
// events tell: a device that got a new key has only the new certificate in its
// record.
func Revoked(ctx context.Context, known *ledger.Ledger) ([]ca.Revoked, error) {
	lots, err := known.Lots(ctx)
	if err != nil {
		return nil, err
	}
	reasons := map[string]ca.Reason{pipeline.ActionUndo: ca.CessationOfOperation, pipeline.ActionRekey: ca.Superseded, pipeline.ActionReturn: ca.Superseded}
	var revoked []ca.Revoked
	seen := map[string]bool{}
	for _, lot := range lots {
		for stored, err := range known.Events(ctx, lot.Name) {
			if err != nil {
				return nil, err
			}
			if !bytes.Contains(stored.Canonical, []byte(`"cert_serial":`)) {
				continue
			}
			var event struct {
				Action     string    `json:"action"`
				CertSerial string    `json:"cert_serial"`
				Reason     string    `json:"reason"`
				Time       time.Time `json:"time"`
			}
			if err := json.Unmarshal(stored.Canonical, &event); err != nil {
				return nil, fault.StorageOutage(fmt.Errorf("event %d of %s: %w", stored.Seq, stored.Origin, err))
			}
			reason, ends := reasons[event.Action]
			if event.Action == pipeline.ActionRevoke {
				reason, ends = ca.Reason(event.Reason), true
			}
			if !ends || event.CertSerial == "" || seen[event.CertSerial] {
				continue
			}
			seen[event.CertSerial] = true
			revoked = append(revoked, ca.Revoked{Serial: event.CertSerial, Time: event.Time, Reason: reason})
		}
	}
	return revoked, nil
}

// CRL makes the revocation list of the configured CA (PEM).
func (o *Options) CRL(ctx context.Context, cfg *config.Config, known *ledger.Ledger, log *slog.Logger) (list []byte, n int, err error) {
	if cfg.Certificates.CA.Certificate == "" {
		return nil, 0, fault.As(fault.Usage, pipeline.WithHint(errors.New("no CA is named"), "Set certificates.ca.certificate and certificates.ca.key."))
	}
	revoked, err := Revoked(ctx, known)
	if err != nil {
		return nil, 0, err
	}
	chain, key, token, err := o.OpenCA(ctx, cfg, log)
	if err != nil {
		return nil, 0, err
	}
	now := time.Now()
	list, err = ca.CRL(chain[0], key, revoked, big.NewInt(now.UnixMilli()), now, now.AddDate(0, 0, max(cfg.Certificates.CRLDays, 1)))
	if _, isPolicy := errors.AsType[*ca.PolicyError](err); isPolicy {
		err = fault.As(fault.Usage, err)
	}
	if token != nil {
		err = errors.Join(err, token.Close())
	}
	return list, len(revoked), err
}
