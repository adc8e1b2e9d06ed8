package telemetry

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
)

// The two signals, as OTEL_* variables and OTLP paths name them.
const (
	signalTraces  = "traces"
	signalMetrics = "metrics"
)

// exportTimeout is the most time for handing over one batch, tries included.
const exportTimeout = 10 * time.Second

// collector is where one signal goes.
type collector struct {
	url     string // with the signal's path for HTTP
	grpc    bool
	headers map[string]string
	tls     *tls.Config
	timeout time.Duration // of one export, tries included
}

// otlpEnv is a variable of the OpenTelemetry specification: the signal's own,
// else the one for all signals.
func otlpEnv(env config.Environ, signal, name string) string {
	return cmp.Or(env.Get("OTEL_EXPORTER_OTLP_"+strings.ToUpper(signal)+"_"+name), env.Get("OTEL_EXPORTER_OTLP_"+name))
}

// newCollector returns where a signal goes, nil for nowhere.
func newCollector(cfg config.TelemetryConfig, env config.Environ, signal string) (*collector, error) {
	wanted := cfg.Traces
	if signal == signalMetrics {
		wanted = cfg.Metrics
	}
	own := "OTEL_EXPORTER_OTLP_" + strings.ToUpper(signal) + "_"
	endpoint, protocol := env.Get(own+"ENDPOINT"), cmp.Or(env.Get(own+"PROTOCOL"), cfg.Protocol)
	base := endpoint == ""
	endpoint = cmp.Or(endpoint, cfg.OTLPEndpoint)
	disabled, err := strconv.ParseBool(cmp.Or(env.Get("OTEL_SDK_DISABLED"), "false"))
	exporter := env.Get("OTEL_" + strings.ToUpper(signal) + "_EXPORTER")
	switch {
	case disabled && err == nil || !wanted || endpoint == "" || exporter == "none":
		return nil, nil
	case exporter != "" && exporter != "otlp":
		return nil, telemetryFault(fmt.Errorf("OTEL_%s_EXPORTER is %q", strings.ToUpper(signal), exporter),
			"It can be otlp or none.")
	case protocol != config.OTLPHTTP && protocol != config.OTLPGRPC:
		return nil, telemetryFault(fmt.Errorf("telemetry.protocol is %q", protocol), "It can be http/protobuf or grpc.")
	}
	c := &collector{grpc: protocol == config.OTLPGRPC}
	if c.url, err = collectorURL(endpoint, signal, base && !c.grpc); err != nil {
		return nil, err
	}
	if c.headers, err = collectorHeaders(cfg, env, signal); err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	if c.tls, err = collectorTLS(cfg, env, signal); err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	millis, err := strconv.Atoi(otlpEnv(env, signal, "TIMEOUT"))
	if c.timeout = time.Duration(millis) * time.Millisecond; err != nil || millis <= 0 {
		c.timeout = exportTimeout
	}
	return c, nil
}

func telemetryFault(err error, hint string) error {
	return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("telemetry: %w", err),
		"%s OTEL_SDK_DISABLED=true runs without telemetry.", hint))
}

// collectorURL accepts https, and http on this machine: spans name devices, and
// headers hold keys. The URL is not in the errors, as it may hold a password.
func collectorURL(raw, signal string, base bool) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", telemetryFault(errors.New("the collector's endpoint is not a URL"),
			"It looks like https://collector.example.com:4318 or http://127.0.0.1:4318.")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", telemetryFault(errors.New("the collector's endpoint has a user, a query or a fragment in it"),
			"Keys go into telemetry.headers_file.")
	case u.Scheme == "http" && !config.Loopback(u.Hostname()):
		return "", telemetryFault(errors.New("the collector's endpoint is plain http on another machine"),
			"Use https, or a collector on this machine that forwards (http://127.0.0.1:4318).")
	}
	if base {
		u = u.JoinPath("v1", signal)
	}
	return u.String(), nil
}

// collectorHeaders finds the headers that the collector asks for: a file that
// is named, the systemd credential, else what the SDK finds in the environment.
func collectorHeaders(cfg config.TelemetryConfig, env config.Environ, signal string) (map[string]string, error) {
	path := cfg.HeadersFile
	if path == "" {
		if dir := env.Get("CREDENTIALS_DIRECTORY"); dir != "" && files.Exists(filepath.Join(dir, "otlp-headers")) {
			path = filepath.Join(dir, "otlp-headers")
		}
	}
	if path == "" {
		// The SDK would log what it cannot read, value and all.
		for pair := range strings.SplitSeq(otlpEnv(env, signal, "HEADERS"), ",") {
			if pair != "" && !strings.Contains(pair, "=") {
				return nil, pipeline.WithHint(errors.New("OTEL_EXPORTER_OTLP_HEADERS has an entry without ="),
					"It looks like name=value,name=value.")
			}
		}
		return nil, nil
	}
	if err := env.GuardSecret("telemetry.headers_file", path); err != nil {
		return nil, err
	}
	headers, err := readCollectorHeaders(path)
	if err != nil {
		return nil, pipeline.WithHint(err, "telemetry.headers_file holds `name: value` lines, such as `Authorization: Bearer ...`.")
	}
	return headers, nil
}

func readCollectorHeaders(path string) (map[string]string, error) {
	data, err := config.ReadSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	headers := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found || name == "" || strings.ContainsAny(name, " \t") || value == "" {
			return nil, fmt.Errorf("%s:%d is not a header", path, number)
		}
		headers[name] = value
	}
	if len(headers) == 0 {
		return nil, lines.Err() // an empty credential is none
	}
	return headers, lines.Err()
}

// collectorTLS trusts the system's CAs and the configured one, and shows the
// client certificate of the specification's variables.
func collectorTLS(cfg config.TelemetryConfig, env config.Environ, signal string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	ca := cmp.Or(env.Get("OTEL_EXPORTER_OTLP_"+strings.ToUpper(signal)+"_CERTIFICATE"), cfg.CAFile)
	if ca != "" {
		roots, err := config.SystemRootsAnd(ca)
		if err != nil {
			return nil, fmt.Errorf("telemetry.ca_file: %w", err)
		}
		conf.RootCAs = roots
	}
	if cert := otlpEnv(env, signal, "CLIENT_CERTIFICATE"); cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, otlpEnv(env, signal, "CLIENT_KEY"))
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
