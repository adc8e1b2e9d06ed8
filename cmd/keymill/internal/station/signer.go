package station

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/reports"
)

// SigningKeyFile is the station's own key, beside the ledger. It is no device's.
const SigningKeyFile = "keymill-signing-key.pem"

// Signer is the key that vouches for this station's evidence.
type Signer struct {
	crypto.Signer           // nil before it was opened
	token         io.Closer // nil for keys in files
	// Custody says what the key's HSM token says of it; nil for keys in files.
	Custody *hsm.Custody
	heads   string // path of the file of signed heads
}

// Close ends the session with the key's token.
func (s Signer) Close() error {
	if s.token == nil {
		return nil
	}
	return s.token.Close()
}

// Signer opens the station's signing key: a token's key for a pkcs11: URI, else
// a file, which is made beside the ledger if there is none.
func (o *Options) Signer(ctx context.Context, cfg *config.Config, log *slog.Logger) (Signer, error) {
	name := cfg.Audit.SigningKey
	if err := o.Settings.Env.GuardSigningKey(name); err != nil {
		return Signer{}, err
	}
	if strings.HasPrefix(name, "pkcs11:") {
		// The module and the PIN's place may be those of the keys' token.
		if first := cfg.Keys.HSM.First(); first != "" {
			var err error
			if name, err = hsm.Complete(name, first); err != nil {
				return Signer{}, fault.As(fault.Usage, err)
			}
		}
		key, err := hsm.OpenSigner(ctx, hsm.Config{
			URI: name, PIN: o.pin, Log: log, Timeout: cfg.Keys.Timeout, Modules: o.Modules, Tell: o.Hooks.Notice, Limits: hsm.Limits{Sessions: 1},
		})
		if err != nil {
			return Signer{}, fault.OfHSM(ctx, err)
		}
		custody := key.Custody()
		return Signer{key, key, &custody, headsPath(cfg)}, nil
	}
	if name == "" {
		name = config.BesideLedger(cfg.Ledger, SigningKeyFile)
	}
	key, created, err := reports.LoadOrCreateKey(name)
	if err != nil {
		return Signer{}, fault.StorageOutage(fmt.Errorf("audit signing key: %w", err))
	}
	if created {
		o.notice(fmt.Sprintf("Made the station's signing key %s (0600). Hand its public half to the auditor now: keymill audit key", name))
	}
	return Signer{key, nil, nil, headsPath(cfg)}, nil
}
