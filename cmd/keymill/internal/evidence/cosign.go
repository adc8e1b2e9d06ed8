package evidence

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
	"keymill/reports"
)

// Witness says who cosigns.
type Witness struct {
	Name  string // as a host name and a path
	Key   string // file of its Ed25519 key, made if it is missing
	State string // file of the checkpoints that it signed; default: Key with .seen
}

// Cosign verifies a bundle as a witness and adds the witness's cosignature to the
// heads of its station logs, if it verifies. It returns what the verification found,
// how many heads there are, and the witness's verifier key.
func Cosign(ctx context.Context, dir string, trust reports.Trust, w Witness) (*reports.Report, int, string, error) {
	signer, _, err := reports.LoadOrCreateKey(w.Key)
	if err != nil {
		return nil, 0, "", fault.StorageOutage(err)
	}
	key, ok := signer.(ed25519.PrivateKey)
	if !ok {
		return nil, 0, "", fault.As(fault.Usage, pipeline.WithHint(errors.New("the witness's key is not an Ed25519 key"), "Name a file that does not exist: a key is made."))
	}
	state, err := reports.OpenHeads(cmp.Or(w.State, w.Key+".seen"))
	if err != nil {
		return nil, 0, "", fault.StorageOutage(err)
	}
	report, cosigned, err := reports.CosignBundle(ctx, dir, trust, reports.Cosigning{Name: w.Name, Key: key, Time: time.Now().UTC(), State: state})
	if err != nil {
		return report, 0, "", Unreadable(ctx, err)
	}
	for _, one := range cosigned {
		if err := files.Write(one.Path, func(w io.Writer) error { _, err := w.Write(one.Note); return err }); err != nil {
			return report, 0, "", fault.Disk(err)
		}
	}
	return report, len(cosigned), reports.WitnessKey(w.Name, key.Public().(ed25519.PublicKey)), nil
}
