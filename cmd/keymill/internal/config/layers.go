package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/structs"
	"github.com/knadh/koanf/v2"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/hsm"
	"keymill/pipeline"
)

func defaultConfig() Config {
	station, err := os.Hostname()
	if err != nil {
		station = "station"
	}
	return Config{
		Server:       ServerConfig{URL: "https://hosted.mender.io", InFlight: 16, OnConflict: "fail", OverLimit: "refuse", Tier: "standard", ShelfLife: "365d", GiveUp: 15 * time.Minute},
		Keys:         KeysConfig{Source: "software", Algorithm: "ed25519", KEKImport: "refuse", Timeout: hsm.DefaultTimeout},
		Certificates: CertificatesConfig{Subject: "CN={{.serial}}", Days: 7300, CRLDays: 30},
		Image:        ImageConfig{Format: "raw", Inject: pipeline.DefaultInject()},
		Report:       ReportConfig{Formats: []string{"csv", "jsonl", "xlsx"}},
		Audit:        AuditConfig{Station: station},
		Log:          LogConfig{Format: "text", Level: "info"},
		Batch:        BatchConfig{Settle: 2 * time.Second, Poll: 5 * time.Second, Retry: 15 * time.Minute},
		Notify:       NotifyConfig{Timeout: 20 * time.Second},
		Telemetry:    TelemetryConfig{Protocol: OTLPHTTP, Traces: true, Metrics: true, Sample: 0.01, Interval: time.Minute},
		Allocate:     AllocateConfig{MACAttributes: []string{"mac"}, SerialFirst: 1},
		Backup:       BackupConfig{Keep: 14},
		Station:      defaultStation(),
		Label:        LabelConfig{Size: "50x25", Symbol: "datamatrix", DPI: 203},
		Ledger:       "keymill.db",
		Workers:      256,
	}
}

// File is read where --config does not name another; it may be absent.
const File = "keymill.yaml"

// Layers are the sources of a configuration, the stronger the later.
type Layers struct {
	Lot   map[string]any // what an existing lot was planned with
	File  string         // --config; "" means configFile if it exists
	Env   Environ        // KEY=value
	Flags map[string]any // by setting, only those that were given
}

// Load merges the layers. Unknown settings and wrong types are usage errors.
func (l Layers) Load() (*Config, error) {
	k := koanf.New(".")
	if err := k.Load(structs.Provider(defaultConfig(), "koanf"), nil); err != nil {
		return nil, err
	}
	file, err := l.readFile()
	if err != nil {
		return nil, err
	}
	env, err := envSettings(l.Env)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(textProblems(env, EnvName), textProblems(l.Flags, func(key string) string { return "--" + flagOf(key) })); err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	for _, layer := range []map[string]any{l.Lot, file, env, l.Flags} {
		if err := k.Load(confmap.Provider(layer, "."), nil); err != nil {
			return nil, err
		}
	}
	var cfg Config
	err = k.UnmarshalWithConf("", &cfg, koanf.UnmarshalConf{Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{
		Result: &cfg, TagName: "koanf", ErrorUnused: true, WeaklyTypedInput: false,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), scalarsFromText, listsFromText, tokensFromList),
	}})
	if err != nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(
			fmt.Errorf("configuration: %s", decodeProblems(err)),
			"`keymill init` writes a keymill.yaml with every setting and its meaning."))
	}
	if cfg.Keys.Source == pipeline.KeysInToken && reflect.DeepEqual(cfg.Image.Inject, pipeline.DefaultInject()) {
		cfg.Image.Inject = pipeline.TokenInject(cfg.Keys.Device.Module != "")
	}
	cfg.From = l.origins(file, env)
	if err := cfg.resolveServer(); err != nil {
		return nil, err
	}
	return &cfg, cfg.check()
}

// For returns the configuration for a lot, whose own settings beat the defaults;
// nil where there is no lot yet.
func (l Layers) For(lot *pipeline.Lot) (*Config, error) {
	l.Lot = OfLot(lot)
	return l.Load()
}

// path is the configuration file, whether it exists or not.
func (l Layers) path() string {
	if l.File != "" {
		return l.File
	}
	return File
}

// readFile returns what the configuration file sets.
func (l Layers) readFile() (map[string]any, error) {
	if info, err := os.Stat(l.path()); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return nil, fault.Usagef("%s is a pipe, and a configuration is read for each lot: give a file", l.path())
	}
	data, err := files.ReadShort(l.path())
	if errors.Is(err, fs.ErrNotExist) && l.File == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Usagef("configuration: %w", err)
	}
	given, err := yaml.Parser().Unmarshal(data)
	if err != nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s is not readable YAML: %w", l.path(), err),
			"Correct the line that is named; `keymill init` writes a fresh example."))
	}
	return withoutNulls(given), fileProblems(l.path(), data)
}

// withoutNulls drops settings without a value, as in a section of which every
// line is commented out: they leave the default alone.
func withoutNulls(given map[string]any) map[string]any {
	kept := map[string]any{}
	for name, value := range given {
		if section, ok := value.(map[string]any); ok {
			value = withoutNulls(section)
		}
		if value != nil {
			kept[name] = value
		}
	}
	return kept
}

// scalarsFromText lets environment variables set numbers and switches.
func scalarsFromText(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String {
		return data, nil
	}
	if to.Kind() == reflect.Float64 {
		return strconv.ParseFloat(data.(string), 64)
	}
	if to.Kind() != reflect.Int && to.Kind() != reflect.Bool {
		return data, nil
	}
	if to.Kind() == reflect.Bool {
		return strconv.ParseBool(data.(string))
	}
	var n int
	if _, err := fmt.Sscanf(data.(string)+"\n", "%d\n", &n); err != nil {
		return nil, fmt.Errorf("%q is not a number", data)
	}
	return n, nil
}

// listsFromText lets environment variables set lists, with commas.
func listsFromText(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || to != reflect.TypeFor[[]string]() {
		return data, nil
	}
	if data.(string) == "" {
		return []string{}, nil
	}
	list := strings.Split(data.(string), ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list, nil
}

// decodeProblems says on one line what mapstructure says on many.
func decodeProblems(err error) string {
	lines := strings.Split(err.Error(), "\n")
	lines = slices.DeleteFunc(lines, func(s string) bool {
		return strings.TrimSpace(s) == "" || strings.Contains(s, "error(s) decoding") || strings.HasPrefix(s, "decoding failed")
	})
	for i := range lines {
		lines[i] = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lines[i]), "* "))
	}
	return strings.Join(lines, "; ")
}

// resolveServer replaces the name of a server by its settings. A lot that was
// planned with a named server remembers URL#NAME, as two tenants of one server
// have the same URL.
func (c *Config) resolveServer() error {
	url, name, _ := strings.Cut(c.Server.URL, "#")
	if _, named := c.Servers[url]; named {
		url, name = "", url
	}
	if name == "" {
		return nil
	}
	chosen, ok := c.Servers[name]
	if !ok {
		return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("no server is named %q", name),
			"Name it under servers in %s, with the settings that server has.", File))
	}
	if url != "" && strings.TrimRight(chosen.URL, "/") != url {
		return fault.Usagef("server %s is %s now, but the lot was planned with %s", name, chosen.URL, url)
	}
	if chosen.InFlight == 0 {
		chosen.InFlight = c.Server.InFlight
	}
	if chosen.GiveUp == 0 {
		chosen.GiveUp = c.Server.GiveUp
	}
	chosen.OnConflict = cmp.Or(chosen.OnConflict, c.Server.OnConflict)
	chosen.OverLimit = cmp.Or(chosen.OverLimit, c.Server.OverLimit)
	chosen.Tier = cmp.Or(chosen.Tier, c.Server.Tier)
	if chosen.Device.Name == "" && chosen.Device.Group == "" && len(chosen.Device.Tags) == 0 {
		chosen.Device = c.Server.Device
	}
	chosen.ShelfLife = cmp.Or(chosen.ShelfLife, c.Server.ShelfLife)
	c.Server, c.Server.name = chosen, name
	return nil
}

// Identity is what a lot remembers of its server.
func (s ServerConfig) Identity() string {
	url := strings.TrimRight(s.URL, "/")
	if s.name == "" {
		return url
	}
	return url + "#" + s.name
}

// Hash is the SHA-256 of the settings in force, for the evidence. No secret is
// among them: settings name the files that hold secrets.
func (c *Config) Hash() (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// OutDir is the folder of the lot's products.
func (c *Config) OutDir(lot string) (string, error) {
	return filepath.Abs(cmp.Or(c.Out, filepath.Join("out", lot)))
}
