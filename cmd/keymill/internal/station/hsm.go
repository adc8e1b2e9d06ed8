package station

import (
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
