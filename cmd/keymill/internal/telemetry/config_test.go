package telemetry

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/metrics"
)

func loadText(t *testing.T, text string, env ...string) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keymill.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Layers{File: path, Env: env}.Load()
}

// collectorsOf loads a configuration and returns where the signals would go.
func collectorsOf(t *testing.T, text string, env ...string) (traces, metrics *collector, err error) {
	t.Helper()
	cfg, err := loadText(t, text, env...)
	if err != nil {
		return nil, nil, err
	}
	if traces, err = newCollector(cfg.Telemetry, env, signalTraces); err != nil {
		return nil, nil, err
	}
	metrics, err = newCollector(cfg.Telemetry, env, signalMetrics)
	return traces, metrics, err
}

// TestTelemetryTargets: where the settings and OTEL_* variables point.
func TestTelemetryTargets(t *testing.T) {
	const file = "telemetry: {otlp_endpoint: 'https://file:4318'}\n"
	tests := []struct{ name, text, env, traces, metrics string }{
		{"nothing", "", "", "", ""},
		{"file", file, "", "https://file:4318/v1/traces", "https://file:4318/v1/metrics"},
		{"environment beats file", file, "OTEL_EXPORTER_OTLP_ENDPOINT=https://env:1/base/", "https://env:1/base/v1/traces", "https://env:1/base/v1/metrics"},
		{"ours beats theirs", "", "OTEL_EXPORTER_OTLP_ENDPOINT=https://env KEYMILL_TELEMETRY_OTLP_ENDPOINT=https://ours", "https://ours/v1/traces", "https://ours/v1/metrics"},
		{"one signal alone", "", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://env/as/it/is", "https://env/as/it/is", ""},
		{"one signal elsewhere", file, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=https://env/m", "https://file:4318/v1/traces", "https://env/m"},
		{"grpc", file, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "https://file:4318", "https://file:4318"},
		{"disabled", file, "OTEL_SDK_DISABLED=true", "", ""},
		{"not disabled", file, "OTEL_SDK_DISABLED=false", "https://file:4318/v1/traces", "https://file:4318/v1/metrics"},
		{"no traces", "telemetry: {otlp_endpoint: 'https://file', traces: false}\n", "", "", "https://file/v1/metrics"},
		{"exporter none", file, "OTEL_METRICS_EXPORTER=none OTEL_TRACES_EXPORTER=otlp", "https://file:4318/v1/traces", ""},
		{"loopback", "telemetry: {otlp_endpoint: 'http://localhost:4318'}\n", "", "http://localhost:4318/v1/traces", "http://localhost:4318/v1/metrics"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			traces, metrics, err := collectorsOf(t, test.text, strings.Fields(test.env)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				got  *collector
				want string
			}{{traces, test.traces}, {metrics, test.metrics}} {
				if got := c.got; (got == nil) != (c.want == "") || got != nil && got.url != c.want {
					t.Errorf("%+v, want %q", got, c.want)
				}
			}
		})
	}
}

// TestTelemetryMistakes: what cannot work is refused before anything begins,
// and secrets are not repeated.
func TestTelemetryMistakes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const on = "KEYMILL_TELEMETRY_OTLP_ENDPOINT=https://c "
	tests := []struct{ name, env, want string }{
		{"plain http elsewhere", "OTEL_EXPORTER_OTLP_ENDPOINT=http://s3cret:4318", "plain http on another machine"},
		{"password in the URL", "OTEL_EXPORTER_OTLP_ENDPOINT=https://u:s3cret@c", "has a user, a query or a fragment"},
		{"key in the URL", "OTEL_EXPORTER_OTLP_ENDPOINT=https://c/?key=s3cret", "has a user, a query or a fragment"},
		{"no URL", "OTEL_EXPORTER_OTLP_ENDPOINT=s3cret:4318", "is not a URL"},
		{"protocol", on + "OTEL_EXPORTER_OTLP_PROTOCOL=http/json", `telemetry.protocol is "http/json"`},
		{"exporter", on + "OTEL_TRACES_EXPORTER=zipkin", `OTEL_TRACES_EXPORTER is "zipkin"`},
		{"share", "KEYMILL_TELEMETRY_SAMPLE=2", "telemetry.sample is 2; it is a share, 0 to 1"},
		{"no number", "KEYMILL_TELEMETRY_SAMPLE=some", "must be a number"},
		{"interval", "KEYMILL_TELEMETRY_INTERVAL=1ms", "the least is 1s"},
		{"headers without =", on + "OTEL_EXPORTER_OTLP_HEADERS=a=b,s3cret", "an entry without ="},
		{"open headers", on + "KEYMILL_TELEMETRY_HEADERS_FILE=" + write("open", "a: s3cret", 0o644), "everybody can read"},
		{"bad headers", on + "KEYMILL_TELEMETRY_HEADERS_FILE=" + write("bad", "a: b\ns3cret\n", 0o600), "bad:2 is not a header"},
		{"no headers", on + "KEYMILL_TELEMETRY_HEADERS_FILE=" + dir + "/none", "no such file"},
		{"no CA", on + "KEYMILL_TELEMETRY_CA_FILE=" + write("ca", "s3cret", 0o600), "holds no PEM certificate"},
		{"no client certificate", on + "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + dir + "/none", "no such file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := collectorsOf(t, "", strings.Fields(test.env)...)
			if err == nil || fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v (kind %d), want %s", err, fault.KindOf(err), test.want)
			}
			if strings.Contains(err.Error()+fault.Hint(err), "s3cret") {
				t.Errorf("it repeats a secret: %v", err)
			}
		})
	}
}

// TestTelemetryOrigin: `config` names the variable that a setting comes from.
func TestTelemetryOrigin(t *testing.T) {
	cfg, err := loadText(t, "", "OTEL_EXPORTER_OTLP_ENDPOINT=https://env", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "KEYMILL_TELEMETRY_PROTOCOL=http/protobuf")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.From["telemetry.otlp_endpoint"] != "OTEL_EXPORTER_OTLP_ENDPOINT" || cfg.From["telemetry.protocol"] != "KEYMILL_TELEMETRY_PROTOCOL" || cfg.Telemetry.Protocol != config.OTLPHTTP {
		t.Errorf("%v, %+v", cfg.From, cfg.Telemetry)
	}
}

// TestTelemetryNames: every figure of the textfile has a name and a unit for
// OTLP, or none on purpose.
func TestTelemetryNames(t *testing.T) {
	descs := make(chan *prometheus.Desc)
	go func() { metrics.New(config.MetricsConfig{}, "s", time.Unix(1, 0)).Reg.Describe(descs); close(descs) }()
	names, seen := otlpMetrics(), map[string]bool{}
	for desc := range descs {
		_, after, _ := strings.Cut(desc.String(), `fqName: "`)
		name, _, _ := strings.Cut(after, `"`)
		seen[name] = true
		if as, ok := names[name]; !ok || (as.name == "") != (as.unit == "") {
			t.Errorf("%s has no name for OTLP", name)
		}
	}
	for name := range names {
		if !seen[name] {
			t.Errorf("the meter has no %s", name)
		}
	}
}

// TestTelemetryHeaders: a named file beats the credential, which beats the
// environment; an empty one is none.
func TestTelemetryHeaders(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := []string{"CREDENTIALS_DIRECTORY=" + dir, "OTEL_EXPORTER_OTLP_HEADERS=a=b"}
	check := func(file string, want map[string]string) {
		t.Helper()
		got, err := collectorHeaders(config.TelemetryConfig{HeadersFile: file}, env, signalTraces)
		if err != nil || (got == nil) != (want == nil) || !maps.Equal(got, want) {
			t.Errorf("%v %v, want %v", got, err, want)
		}
	}
	check("", nil)
	check(write("empty", "# none yet\n\n"), nil)
	write("otlp-headers", "X-Key: credential\n")
	check("", map[string]string{"X-Key": "credential"})
	check(write("named", "X-Key: a: b\nX-Other:c"), map[string]string{"X-Key": "a: b", "X-Other": "c"})
}
