package station

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/say"
	"keymill/imaging"
)

// Check is one thing to look at before lots are worked on. Run says in what
// order it is, or what is wrong; it changes nothing.
type Check struct {
	Name string
	Run  func(context.Context) (string, error)
}

// Checks look at all that the configuration names.
func (o *Options) Checks(cfg *config.Config) []Check {
	c := checker{o, cfg}
	return []Check{
		{"secrets", c.checkSecrets}, {"e2fsprogs", checkTools}, {"golden image", c.checkGolden}, {"disk", c.checkDisk},
		{"ledger", c.checkLedger}, {"keys", c.checkKeys}, {"signing key", c.checkSigner}, {"certificates", c.checkAuthority}, {"server", c.checkServer},
	}
}

type checker struct {
	opts *Options
	cfg  *config.Config
}

func checkTools(ctx context.Context) (string, error) {
	if err := imaging.ToolsMissing(); err != nil {
		return "", err
	}
	return "debugfs and e2fsck are there", ctx.Err()
}

func (c checker) checkGolden(ctx context.Context) (string, error) {
	l := &Lot{opts: c.opts, Config: c.cfg, Log: c.opts.log(c.cfg)}
	defer l.Close()
	if l.keyless() {
		return "none is needed: the devices made their keys themselves", nil
	}
	if err := l.openGolden(ctx, time.Now().UTC().Truncate(time.Second)); err != nil {
		return "", err
	}
	data, err := l.images.golden.Data()
	if err != nil {
		return "", ImageFault(ctx, c.cfg.Image.Golden, err)
	}
	concerns, err := l.tierConcerns(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, data partition is number %d", c.cfg.Image.Golden, data.Number) + describeConcerns(concerns), nil
}

func (c checker) checkDisk(context.Context) (string, error) {
	out, err := c.cfg.OutDir("LOT")
	if err != nil {
		return "", err
	}
	free, err := imaging.FreeBytes(existingParent(out))
	if err != nil {
		return "", fault.StorageOutage(err)
	}
	return say.Bytes(free) + " free for products", nil
}

func (c checker) checkLedger(ctx context.Context) (string, error) {
	known, err := OpenKnown(ctx, c.cfg.Ledger)
	if err != nil {
		return "", err
	}
	if known == nil {
		return c.cfg.Ledger + " will be made by the first run", nil
	}
	lots, err := known.Lots(ctx)
	if err := errors.Join(err, known.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d lots", c.cfg.Ledger, len(lots)), nil
}

func (c checker) checkKeys(ctx context.Context) (string, error) {
	keys, err := c.opts.openKeys(ctx, c.cfg, c.opts.log(c.cfg))
	if err != nil {
		return "", err
	}
	rate, err := keyRate(ctx, keys)
	if err := errors.Join(err, keys.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s, about %.0f a second and core", c.cfg.Keys.Source, c.cfg.Keys.Algorithm, rate), nil
}

// checkSigner has the station's signing key sign, where there is one yet.
func (c checker) checkSigner(ctx context.Context) (string, error) {
	name := cmp.Or(c.cfg.Audit.SigningKey, config.BesideLedger(c.cfg.Ledger, SigningKeyFile))
	if !strings.HasPrefix(name, "pkcs11:") && !files.Exists(name) {
		return name + " will be made by the first run", nil
	}
	signer, err := c.opts.Signer(ctx, c.cfg, c.opts.log(c.cfg))
	if err != nil {
		return "", err
	}
	if err := signer.Close(); err != nil {
		return "", fault.OfHSM(ctx, err)
	}
	if custody := signer.Custody; custody != nil {
		return fmt.Sprintf("%s in the HSM token %s/%s signs", custody.Algorithm, custody.TokenSerial, custody.TokenLabel), nil
	}
	return name + " can be read", nil
}

// checkAuthority makes a certificate for an invented device, which nobody keeps.
func (c checker) checkAuthority(ctx context.Context) (string, error) {
	a, err := c.opts.openAuthority(ctx, c.cfg, c.opts.log(c.cfg))
	if err != nil {
		return "", err
	}
	if a == nil {
		return "devices get none", nil
	}
	if err := a.Close(); err != nil {
		return "", fault.OfHSM(ctx, err)
	}
	return fmt.Sprintf("made by %s until %s", a.Certificate().Subject, a.Certificate().NotAfter.Format(time.DateOnly)), nil
}

func (c checker) checkServer(ctx context.Context) (string, error) {
	server, err := c.opts.OpenServer(c.cfg, c.opts.log(c.cfg))
	if err != nil {
		return "", err
	}
	defer server.Close()
	probe, err := server.ProbeNow(ctx)
	if err != nil {
		return "", err
	}
	return viewServer(probe).String() + describeConcerns(probe.Concerns(lotPlan(c.cfg, 0, 0), time.Now())), nil
}

// checkSecrets looks at every file with a secret that the configuration names,
// used by this run or not.
func (c checker) checkSecrets(context.Context) (string, error) {
	files := map[string]string{
		"server.token_file": c.cfg.Server.TokenFile, "server.password_file": c.cfg.Server.PasswordFile,
		"notify.secret_file": c.cfg.Notify.SecretFile, "telemetry.headers_file": c.cfg.Telemetry.HeadersFile,
	}
	for name, server := range c.cfg.Servers {
		files["servers."+name+".token_file"], files["servers."+name+".password_file"] = server.TokenFile, server.PasswordFile
	}
	for setting, path := range files {
		if err := c.opts.Settings.Env.GuardSecret(setting, path); err != nil {
			return "", err
		}
	}
	for _, uri := range c.cfg.Keys.HSM.URIs() {
		if err := c.opts.Settings.Env.GuardPIN("keys.hsm", uri); err != nil {
			return "", err
		}
	}
	if err := c.opts.Settings.Env.GuardSigningKey(c.cfg.Audit.SigningKey); err != nil {
		return "", err
	}
	return "no file with a secret is open to everybody", nil
}
