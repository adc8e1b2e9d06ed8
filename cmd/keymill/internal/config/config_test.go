package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
)

func loadText(t *testing.T, text string, env ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keymill.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Layers{File: path, Env: env}.Load()
}

// TestConfigMistakes: a mistake names its line and what was probably meant.
func TestConfigMistakes(t *testing.T) {
	tests := []struct{ name, text, env, want string }{
		{"unknown setting", "image:\n  gollden: x\n", "", "keymill.yaml:2: image.gollden is unknown; did you mean image.golden?"},
		{"wrong section", "golden: x\n", "", ":1: golden is unknown; did you mean image.golden?"},
		{"unknown section", "sevrer: {url: x}\n", "", "sevrer is unknown; did you mean server?"},
		{"nothing near", "frobnicate: 1\n", "", "frobnicate is unknown"},
		{"in a named server", "servers:\n  a: {token_flie: x}\n", "", "servers.a.token_flie is unknown; did you mean servers.a.token_file?"},
		{"in an entry", "image:\n  inject:\n    - {path: /x, tmplate: y}\n", "", "image.inject[0].tmplate is unknown; did you mean image.inject[0].template?"},
		{"text for a number", "workers: many\n", "", `workers is the text "many"; it must be a whole number`},
		{"number for text", "audit:\n  station: 3\n", "", `audit.station is the number 3; it must be text: write "3"`},
		{"octal mode", "image:\n  inject:\n    - {path: /x, content: private-key, mode: 0600}\n", "", `mode is the number 0600; it must be text: write "0600"`},
		{"duration without unit", "server: {give_up: 15}\n", "", "server.give_up is the number 15; it must be a duration with a unit"},
		{"no switch", "retention: {accepted: maybe}\n", "", "it must be true or false"},
		{"no list", "image: {inject: x}\n", "", "it must be a list"},
		{"no section", "server: x\n", "", "server is the text \"x\"; it must be names and values"},
		{"two at once", "a: 1\nimage: {frmat: raw}\n", "", "did you mean image.format?"},
		{"wrong word", "keys: {source: softwar}\n", "", "did you mean software?"},
		{"variable", "", "KEYMILL_SERVER_ULR=x", "unknown environment variable KEYMILL_SERVER_ULR; did you mean KEYMILL_SERVER_URL?"},
		{"secret's variable", "", "KEYMILL_TOKN=x", "did you mean KEYMILL_TOKEN?"},
		{"variable of a section", "", "KEYMILL_MANIFEST_COLUMNS=x", "cannot be set by the environment"},
		{"number in a variable", "", "KEYMILL_WORKERS=x", `KEYMILL_WORKERS is "x"; it must be a whole number`},
		{"switch in a variable", "", "KEYMILL_RETENTION_ACCEPTED=yes", `KEYMILL_RETENTION_ACCEPTED is "yes"; it must be true or false`},
		{"duration in a variable", "", "KEYMILL_SERVER_GIVE_UP=5", `it must be a duration with a unit`},
		{"secret in a variable", "", "KEYMILL_SERVER_TOKEN=x", "did you mean KEYMILL_SERVER_TOKEN_FILE?"},
		{"dotted name", "server.url: https://x\n", "", "server.url is written as sections: server: {url: ..}"},
		{"dotted name in a section", "server: {server.url: x}\n", "", "server.server.url is written as sections"},
		{"nothing near in an entry", "image:\n  inject:\n    - {path: /x, zzzz: y}\n", "", "image.inject[0].zzzz is unknown"},
		{"second document", "workers: 3\n---\nworkers: 4\n", "", "a second document begins"},
		{"list, not names", "- a\n", "", "is not readable YAML"},
		{"another database", "ledger: \"mysql://u:pw@h/x\"\n", "", "ledger is a URL of mysql; it can be"},
		{"no station", "audit: {station: \"\"}\n", "", "audit.station is empty"},
		{"unknown report", "report: {formats: [csv, xslx]}\n", "", "did you mean xlsx?"},
		{"wrong algorithm", "keys: {algorithm: ed25518}\n", "", "did you mean ed25519?"},
		{"no age", "retention: {older_than: 90x}\n", "", `retention.older_than is "90x"`},
		{"time that runs back", "server: {give_up: -1m}\n", "", "server.give_up is -1m0s"},
		{"too long", strings.Repeat("# x\n", 300_000), "", "longer than 1 MiB"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadText(t, test.text, test.env)
			if err == nil || fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v (kind %d), want %s", err, fault.KindOf(err), test.want)
			}
			if strings.Contains(test.env, "=x") && strings.Contains(err.Error(), "=x") {
				t.Error("it repeats the variable's value")
			}
		})
	}
}

// TestConfigOrigins: the stronger layer wins, and is named.
func TestConfigOrigins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.yaml")
	text := "workers: 7\nserver: {in_flight: 5, give_up: 2m}\nimage:\nreport: &r {formats: [csv]}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Layers{
		Lot: map[string]any{"out": "lot", "image.format": "pack"}, File: path,
		Env:   []string{"KEYMILL_ACTIVE_HELP=0", "KEYMILL_REPORT_FORMATS=csv, xlsx", "KEYMILL_SERVER_IN_FLIGHT= 6", "KEYMILL_RETENTION_ACCEPTED=true", "KEYMILL_TOKEN=s", "KEYMILL_EVENT=e", "KEYMILL_OUT="},
		Flags: map[string]any{"image.format": "raw", "log.level": "warn"},
	}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Workers != 7 || cfg.Server.InFlight != 6 || cfg.Server.GiveUp != 2*time.Minute || cfg.Out != "lot" || cfg.Image.Format != "raw" || !cfg.Retention.Accepted ||
		!slices.Equal(cfg.Report.Formats, []string{"csv", "xlsx"}) {
		t.Errorf("got %+v", cfg)
	}
	for key, want := range map[string]string{
		"workers": path, "server.in_flight": "KEYMILL_SERVER_IN_FLIGHT", "out": "lot", "image.format": "--format", "ledger": "", "retention.accepted": "KEYMILL_RETENTION_ACCEPTED",
	} {
		if cfg.From[key] != want {
			t.Errorf("%s is said to come from %q, want %q", key, cfg.From[key], want)
		}
	}
}

// TestSecretsAreBlotted: config and doctor show no secret.
func TestSecretsAreBlotted(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{"keys.hsm", "pkcs11:token=f?pin-value=1234&module-path=/m", "pkcs11:token=f?pin-value=...&module-path=/m"},
		{"ledger", "postgres://keymill:hunter2@db/keymill", "postgres://keymill:...@db/keymill"},
		{"ledger", "postgres://db/k?user=a&password=hunter2&x=1", "postgres://db/k?user=a&password=...&x=1"},
		{"notify.url", "https://chat.example/hooks/T0K3N", "https://chat.example/..."},
		{"notify.url", "https://chat.example/", "https://chat.example/"},
		{"server.url", "https://hosted.mender.io", "https://hosted.mender.io"},
	} {
		if got := blotted(test.key, test.value); got != test.want {
			t.Errorf("%s: %s, want %s", test.value, got, test.want)
		}
	}
}
