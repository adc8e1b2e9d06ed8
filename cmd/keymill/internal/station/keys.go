package station

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/pipeline"
)

// keySource is where the job's keys come from.
type keySource interface {
	pipeline.Keys
	Load() hsm.Load
	Origin() hsm.Origin
	Close() error
}

// originFacts are what the evidence says of where keys come from.
func originFacts(o hsm.Origin) map[string]string {
	values := map[string]string{
		"keys": string(o.Mode), "key_module": o.Module, "key_module_version": o.ModuleVersion,
		"token_label": o.TokenLabel, "token_serial": o.TokenSerial, "token_model": o.TokenModel, "token_firmware": o.Firmware,
		"key_mechanism": o.Mechanism, "key_transport": o.Transport, "key_warnings": strings.Join(o.Warnings, "; "),
	}
	if o.Module != "" {
		values["key_module_path"], values["key_module_sha256"] = o.ModulePath, o.ModuleSHA256
	}
	if len(o.Others) > 0 {
		names := []string{o.Name()}
		for _, other := range o.Others {
			names = append(names, other.Name())
		}
		values["tokens"] = strings.Join(names, ", ")
	}
	if o.Mode == hsm.ModeHSM || o.Mode == hsm.ModeToken { // the others make no keys in the token
		values["key_always_sensitive"] = strconv.FormatBool(o.AlwaysSensitive)
		values["key_never_extractable"] = strconv.FormatBool(o.NeverExtractable)
	}
	return values
}

// logLoad says how well the token was used: sessions that starved cost speed.
func logLoad(ctx context.Context, log *slog.Logger, load hsm.Load) {
	if load.Sessions == 0 || load.Span == 0 {
		return
	}
	percent := func(share float64) string { return strconv.FormatFloat(100*share, 'f', 1, 64) + "%" }
	log.DebugContext(ctx, "the token's sessions", "sessions", load.Sessions, "keys", load.Keys, "span", load.Span.Round(time.Millisecond),
		"busy", percent(load.Utilisation()), "starved", percent(load.Starvation()))
}

// stationKeys tells the pipeline when the HSM itself is gone, or the disk under
// the journal of what is made in it.
type stationKeys struct {
	hsm.Source
	journal *hsm.FileJournal // nil for keys in software
}

func (s *stationKeys) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	private, public, err = s.Source.Generate(ctx, label)
	switch {
	case err == nil:
	case fault.IsStorage(err):
		err = fault.StorageOutage(err)
	case fault.IsHSM(err):
		err = &pipeline.Outage{Part: pipeline.PartHSM, Err: err, Hint: hsm.Hint(err)}
	}
	return private, public, err
}

// MadeBy names the HSM token that made a key, "" for keys in software.
func (s *stationKeys) MadeBy(public []byte) string {
	if maker, ok := s.Source.(hsm.Maker); ok {
		return maker.MadeBy(public)
	}
	return ""
}

func (s *stationKeys) Close() error {
	err := s.Source.Close()
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	return err
}

// keyFinder makes the files by which devices find the keys in their tokens.
type keyFinder struct {
	locator hsm.Locator
	device  config.DeviceTokenConfig
}

// finderOf returns nil for keys that don't stay in tokens.
func finderOf(keys keySource, device config.DeviceTokenConfig) *keyFinder {
	if station, ok := keys.(*stationKeys); ok {
		if locator, ok := station.Source.(hsm.Locator); ok && station.Origin().Mode == hsm.ModeToken {
			return &keyFinder{locator, device}
		}
	}
	return nil
}

func (f *keyFinder) files(public []byte) (pipeline.KeyFiles, error) {
	uri, err := f.locator.URI(public)
	if err != nil {
		return pipeline.KeyFiles{}, err
	}
	return deviceFiles(f.device, uri)
}

// deviceFiles are for the device whose key has this URI.
func deviceFiles(d config.DeviceTokenConfig, uri string) (key pipeline.KeyFiles, err error) {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return key, err
	}
	u.PINSource = d.PINSource
	via := hsm.Engine
	if d.Module != "" {
		via, key.OpenSSLConf = hsm.OpenSSL3, []byte(hsm.ProviderConf(d.Module))
	}
	key.MenderConf, err = hsm.MenderSecurity(u.String(), via)
	return key, err
}

// openKeys opens the configured source of keys, and never another one.
func (o *Options) openKeys(ctx context.Context, cfg *config.Config, log *slog.Logger) (keySource, error) {
	switch cfg.Keys.Source {
	case pipeline.KeysInManifest:
		return &givenKeys{mode: cfg.Keys.Source}, nil
	case pipeline.KeysInFiles:
		path, err := keyPath(cfg.Keys.Files)
		return &givenKeys{mode: cfg.Keys.Source, path: path}, err
	}
	algorithm, err := hsm.ParseAlgorithm(cfg.Keys.Algorithm)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	mode, err := hsm.ParseMode(cfg.Keys.Source)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	if mode == hsm.ModeSoftware {
		source, err := hsm.Software(algorithm)
		return &stationKeys{Source: source}, err
	}
	configs, journal, err := o.HSMConfigs(cfg, log, hsm.OpenJournal)
	if err != nil {
		return nil, err
	}
	source, err := hsm.OpenSpread(ctx, mode, algorithm, configs...)
	if err != nil {
		return nil, errors.Join(fault.OfHSM(ctx, err), journal.Close())
	}
	for _, warning := range source.Origin().Warnings {
		log.Warn(warning)
	}
	return &stationKeys{source, journal}, nil
}

// HSMConfigs name the tokens. The journal of token objects lies beside the
// ledger and is opened by open; the caller closes it. Without open there is none.
func (o *Options) HSMConfigs(cfg *config.Config, log *slog.Logger, open func(path string) (*hsm.FileJournal, error)) ([]hsm.Config, *hsm.FileJournal, error) {
	if err := o.checkTokens(cfg); err != nil {
		return nil, nil, err
	}
	var configs []hsm.Config
	for _, uri := range cfg.Keys.HSM.URIs() {
		configs = append(configs, hsm.Config{
			URI: uri, PIN: o.pin, Log: log, Timeout: cfg.Keys.Timeout, Modules: o.Modules, Tell: o.Hooks.Notice, ImportKEK: cfg.Keys.KEKImport == "allow",
			Limits: hsm.Limits{Sessions: cfg.Keys.Sessions, Objects: cfg.Keys.TokenObjects, Keys: cfg.Keys.Limit},
		})
	}
	if open == nil {
		return configs, nil, nil
	}
	journal, err := open(hsmJournalPath(cfg.Ledger))
	if errors.Is(err, hsm.ErrJournalInUse) {
		return nil, nil, fault.As(fault.Usage, pipeline.WithHint(err,
			"Its new objects look like crash leftovers; wait for it."))
	}
	if err != nil {
		return nil, nil, fault.StorageOutage(err)
	}
	for i := range configs {
		configs[i].Journal = journal
	}
	return configs, journal, nil
}

func hsmJournalPath(ledger string) string { return config.BesideLedger(ledger, "keymill-hsm-journal") }

// pin is asked for when the URI names no pin-source: the systemd credential
// hsm-pin, the environment, or somebody at the terminal.
func (o *Options) pin(ctx context.Context, token string) ([]byte, error) {
	if dir := o.Settings.Env.Get("CREDENTIALS_DIRECTORY"); dir != "" {
		path := filepath.Join(dir, "hsm-pin")
		if info, err := os.Stat(path); err == nil && info.Size() > 0 { // an empty credential is none
			return hsm.PINFile(path)(ctx, token)
		}
	}
	if value := strings.TrimRight(o.Settings.Env.Get("KEYMILL_HSM_PIN"), "\r\n"); value != "" {
		return []byte(value), nil
	}
	if o.Hooks.AskPIN != nil {
		return o.Hooks.AskPIN(ctx, token)
	}
	return nil, pipeline.WithHint(fmt.Errorf("the token %s needs a PIN", token),
		"Name a file with pin-source in the URI, provide the systemd credential hsm-pin or KEYMILL_HSM_PIN, or run at a terminal.")
}
