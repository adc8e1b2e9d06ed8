//go:build cgo

package hsm

import (
	"context"
	"fmt"
	"math"

	"github.com/miekg/pkcs11"
)

// List returns the tokens that a module shows, and what they say of themselves.
// It needs no PIN. Of cfg.URI the module counts, and attributes of the token,
// which select.
func List(ctx context.Context, cfg Config) (*Listing, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, &RefusedError{Err: err, Hint: "write pkcs11:?module-path=/path/to/module.so"}
	}
	m, err := openModule(ctx, u, &cfg)
	if err != nil {
		return nil, err
	}
	defer m.close()
	l, err := invoke(ctx, m, func() (*Listing, error) { return m.list(u) }, nil)
	if err != nil {
		return nil, asGone(err, u)
	}
	return l, nil
}

func (m *module) list(u *URI) (*Listing, error) {
	l := &Listing{Tokens: []TokenInfo{}}
	l.Module, l.Version = m.describe()
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		token, err := m.ctx.GetTokenInfo(slot)
		if err != nil || !m.matches(u, token) {
			continue // without a token, it is nothing to list
		}
		info := describeToken(token)
		if info.Mechanisms, err = m.mechanisms(slot); err != nil {
			return nil, fmt.Errorf("mechanisms of %s: %w", info.URI, err)
		}
		l.Tokens = append(l.Tokens, info)
	}
	return l, nil
}

func describeToken(token pkcs11.TokenInfo) TokenInfo {
	info := TokenInfo{
		URI: tokenURI(token), Label: trimmed(token.Label), Serial: trimmed(token.SerialNumber),
		Model: trimmed(token.Model), Manufacturer: trimmed(token.ManufacturerID),
		Hardware:   fmt.Sprintf("%d.%d", token.HardwareVersion.Major, token.HardwareVersion.Minor),
		Firmware:   fmt.Sprintf("%d.%d", token.FirmwareVersion.Major, token.FirmwareVersion.Minor),
		FreePublic: told(token.FreePublicMemory), FreePrivate: told(token.FreePrivateMemory),
		MaxSessions: told(token.MaxRwSessionCount), OpenSessions: told(token.SessionCount),
	}
	if token.MaxRwSessionCount == pkcs11.CK_EFFECTIVELY_INFINITE {
		info.MaxSessions = nil
	}
	for _, f := range []struct {
		flag uint
		name string
	}{
		{flagInitialized, "initialized"}, {flagPINInitialized, "PIN set"}, {flagLoginRequired, "login required"},
		{flagPINPad, "PIN pad"}, {flagRNG, "random numbers"}, {flagWriteProtected, "write-protected"}, {flagPINCountLow, "a wrong PIN was given"},
		{flagPINFinalTry, "one try for the PIN left"}, {flagPINLocked, "PIN locked"},
	} {
		if token.Flags&f.flag != 0 {
			info.State = append(info.State, f.name)
		}
	}
	return info
}

// told returns nil for CK_UNAVAILABLE_INFORMATION, and for what 32-bit code
// passes for it.
func told(n uint) *uint64 {
	if n == pkcs11.CK_UNAVAILABLE_INFORMATION || uint64(n) == math.MaxUint32 {
		return nil
	}
	value := uint64(n)
	return &value
}

// mechanisms names those of a slot that keymill could use.
func (m *module) mechanisms(slot uint) ([]string, error) {
	known := []struct {
		number uint
		name   string
	}{
		{pkcs11.CKM_EC_KEY_PAIR_GEN, "EC_KEY_PAIR_GEN"}, {ckmECEdwardsKeyPair, "EC_EDWARDS_KEY_PAIR_GEN"},
		{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, "RSA_PKCS_KEY_PAIR_GEN"}, {pkcs11.CKM_AES_KEY_GEN, "AES_KEY_GEN"},
		{pkcs11.CKM_RSA_PKCS_OAEP, "RSA_PKCS_OAEP"}, {ckmAESKeyWrapKWP, "AES_KEY_WRAP_KWP"},
		{pkcs11.CKM_AES_KEY_WRAP_PAD, "AES_KEY_WRAP_PAD"}, {pkcs11.CKM_AES_CBC_PAD, "AES_CBC_PAD"},
		{pkcs11.CKM_ECDSA, "ECDSA"}, {ckmEdDSA, "EDDSA"}, {pkcs11.CKM_RSA_PKCS, "RSA_PKCS"},
	}
	list, err := m.ctx.GetMechanismList(slot)
	if err != nil {
		return nil, err
	}
	has := map[uint]bool{}
	for _, mechanism := range list {
		has[mechanism.Mechanism] = true
	}
	names := []string{}
	for _, k := range known {
		if has[k.number] {
			names = append(names, k.name)
		}
	}
	return names, nil
}
