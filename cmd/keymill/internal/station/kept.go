package station

import (
	"context"
	"errors"
	"log/slog"

	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/pipeline"
)

// kept are the tokens in which a lot's keys stay. It is nil for lots whose keys
// lie in packs and images.
type kept struct {
	tokens  []*hsm.Kept
	journal *hsm.FileJournal
	log     *slog.Logger
	missing int // keys that the token doesn't have
}

// openKept opens the token of a lot whose keys stay in one.
func (l *Lot) openKept(ctx context.Context) (*kept, error) {
	if l.Keys != pipeline.KeysInToken {
		return nil, nil
	}
	configs, journal, err := l.opts.HSMConfigs(l.Config, l.Log, hsm.OpenJournal)
	if err != nil {
		return nil, err
	}
	k := &kept{journal: journal, log: l.Log}
	for _, config := range configs {
		token, err := hsm.OpenKept(ctx, config)
		if err != nil {
			return nil, errors.Join(fault.OfHSM(ctx, err), k.Close())
		}
		k.tokens = append(k.tokens, token)
	}
	return k, nil
}

// keysMayStay gives advice where the token can't be opened.
func keysMayStay(ctx context.Context, err error) error {
	if ctx.Err() != nil || fault.KindOf(err) != fault.HSM {
		return err
	}
	return fault.As(fault.HSM, pipeline.WithHint(err,
		"%s. If the token has shipped, give --keys-stay: its keys stay there, and the evidence says so.", fault.Hint(err)))
}

// destroy destroys a device's key where it is in the token, and returns what
// the device's event says of it: nothing where the token doesn't have it.
func (k *kept) destroy(ctx context.Context, rec *pipeline.Record) (fate string, err error) {
	if k == nil || len(rec.PublicKey) == 0 {
		return pipeline.KeyDestroyed, nil
	}
	for _, token := range k.tokens {
		found, err := token.Destroy(ctx, rec.PublicKey)
		if err != nil {
			return "", fault.OfHSM(ctx, err)
		}
		if found {
			return pipeline.KeyDestroyed, nil
		}
	}
	k.missing++
	k.log.Warn("the device's key is not in this token", "device", rec.Identity.Name(), "row", rec.Row)
	return "", nil
}

func (k *kept) Close() error {
	if k == nil {
		return nil
	}
	var problems []error
	for _, token := range k.tokens {
		problems = append(problems, token.Close())
	}
	return errors.Join(append(problems, k.journal.Close())...)
}
