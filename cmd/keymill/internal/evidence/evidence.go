// Package evidence exports bundles and proofs for the auditor, reads what an
// auditor trusts, and cosigns.
package evidence

import (
	"context"
	"crypto/x509"
	"errors"
	"os"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/reports"
)

// TrustFiles are what an auditor brings along: files with keys, earlier
// checkpoints, witnesses' keys and roots of time-stamp authorities.
type TrustFiles struct{ Keys, Since, Witnesses, Authorities []string }

// Load reads them.
func (t *TrustFiles) Load() (trust reports.Trust, err error) {
	if len(t.Keys) == 0 {
		return trust, fault.As(fault.Usage, pipeline.WithHint(errors.New("no key to trust"),
			"Give --key FILE with the station's public key, got from `keymill audit key` on the station and not from the bundle."))
	}
	for _, name := range t.Keys {
		data, err := os.ReadFile(name)
		if err != nil {
			return trust, fault.As(fault.Usage, err)
		}
		key, err := reports.ParsePublicKey(data)
		if err != nil {
			return trust, fault.Usagef("%s: %w", name, err)
		}
		trust.Keys = append(trust.Keys, key)
	}
	for _, name := range t.Since {
		data, err := os.ReadFile(name)
		if err != nil {
			return trust, fault.As(fault.Usage, err)
		}
		trust.Since = append(trust.Since, data)
	}
	if len(t.Authorities) > 0 {
		trust.Authorities = x509.NewCertPool()
	}
	for _, name := range t.Authorities {
		data, err := os.ReadFile(name)
		if err != nil {
			return trust, fault.As(fault.Usage, err)
		}
		if !trust.Authorities.AppendCertsFromPEM(data) {
			return trust, fault.Usagef("%s holds no certificate", name)
		}
	}
	for _, name := range t.Witnesses {
		data, err := os.ReadFile(name)
		if err != nil {
			return trust, fault.As(fault.Usage, err)
		}
		witness, err := reports.ParseWitness(string(data))
		if err != nil {
			return trust, fault.Usagef("%s: %w", name, err)
		}
		trust.Witnesses = append(trust.Witnesses, witness)
	}
	return trust, nil
}

// Unreadable is an error of evidence that cannot even be read.
func Unreadable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.As(fault.Evidence, err)
}
