package main

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"strings"

	"keymill/hsm"
	"keymill/reports"
)

// signer opens the key that vouches for this station's evidence: a token's key
// for a pkcs11: URI, else a file, which is made beside the ledger if there is
// none. Close it after use.
func (a *app) signer(ctx context.Context, cfg *Config, log *slog.Logger) (key crypto.Signer, closeKey func() error, err error) {
	name := cfg.Audit.SigningKey
	if strings.HasPrefix(name, "pkcs11:") {
		key, err := hsm.OpenSigner(ctx, hsm.Config{URI: name, PIN: a.pin, Log: log})
		if err != nil {
			return nil, nil, hsmError(ctx, err)
		}
		return key, key.Close, nil
	}
	if name == "" {
		name = cfg.Ledger + ".signing-key.pem"
	}
	key, created, err := reports.LoadOrCreateKey(name)
	if err != nil {
		return nil, nil, packOutage(fmt.Errorf("audit signing key: %w", err))
	}
	if created {
		fmt.Fprintf(a.err, "Made the station's signing key %s (0600). Hand its public half to the auditor now: keymill audit key\n", name)
	}
	return key, func() error { return nil }, nil
}
