// Package evidence exports bundles and proofs for the auditor, reads what an
// auditor trusts, and cosigns.
package evidence

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/station"
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

// ProveFromBundle takes a device's proof from a bundle.
func ProveFromBundle(ctx context.Context, bundle, device string) (*reports.Proof, error) {
	proof, err := reports.ProveFromBundle(ctx, bundle, device)
	if err != nil {
		err = Unreadable(ctx, err)
	}
	return proof, err
}

// ProveFromLedger makes a device's proof from the ledger.
func ProveFromLedger(ctx context.Context, o station.Options, lot, device string) (*reports.Proof, error) {
	known, err := station.OpenView(ctx, o.Settings, lot)
	if err != nil {
		return nil, err
	}
	defer known.Close()
	rec, err := known.Device(ctx, device)
	if err != nil {
		return nil, err
	}
	key, err := o.Signer(ctx, known.Config, logs.New(known.Config.Log, o.Hooks.LogTo))
	if err != nil {
		return nil, err
	}
	defer key.Close()
	return reports.Prove(ctx, known, lot, rec.Row, key)
}

// KeyOfImage reads the SPKI of the key in a unit's image; nil without an image.
func KeyOfImage(ctx context.Context, image, path string) ([]byte, error) {
	if image == "" {
		return nil, nil
	}
	golden, closeImage, err := station.OpenImage(ctx, image, "")
	if err != nil {
		return nil, err
	}
	defer closeImage()
	private, err := golden.ReadFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	return pipeline.PublicOf(private)
}

// Cosign adds a witness's cosignature to each checkpoint of a bundle that was
// verified. The witness's Ed25519 key is made if it is missing. It returns how
// many checkpoints there are, and the witness's verifier key.
func Cosign(dir, name, witness string) (int, string, error) {
	signer, _, err := reports.LoadOrCreateKey(witness)
	if err != nil {
		return 0, "", fault.StorageOutage(err)
	}
	key, ok := signer.(ed25519.PrivateKey)
	if !ok {
		return 0, "", fault.As(fault.Usage, pipeline.WithHint(errors.New("the witness's key is not an Ed25519 key"), "Name a file that does not exist: a key is made."))
	}
	checkpoints, err := filepath.Glob(filepath.Join(dir, "log", "*", "checkpoint"))
	if err != nil {
		return 0, "", err
	}
	for _, path := range checkpoints {
		if err := cosignFile(path, name, key); err != nil {
			return 0, "", err
		}
	}
	return len(checkpoints), reports.WitnessKey(name, key.Public().(ed25519.PublicKey)), nil
}

// cosignFile adds to the cosignatures that a checkpoint has already.
func cosignFile(path, name string, key ed25519.PrivateKey) error {
	cosigned := path + ".cosigned"
	data, err := os.ReadFile(cosigned)
	if errors.Is(err, os.ErrNotExist) {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return fault.StorageOutage(err)
	}
	signed, err := reports.Cosign(data, name, key, time.Now().UTC())
	if err != nil {
		return fault.As(fault.Evidence, err)
	}
	return fault.Disk(files.Write(cosigned, func(w io.Writer) error { _, err := w.Write(signed); return err }))
}
