package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
)

// envPrefix begins the environment variables that are keymill's.
const envPrefix = "KEYMILL_"

// envOthers are variables that are no settings: secrets, what a hook finds in
// its environment, as it may call keymill, and what shells set to complete.
func envOthers() []string {
	return []string{"KEYMILL_TOKEN", "KEYMILL_HSM_PIN", "KEYMILL_WEBHOOK_SECRET", "KEYMILL_EVENT", "KEYMILL_LOT", "KEYMILL_TOOLS", "KEYMILL_ACTIVE_HELP"}
}

// EnvName is the variable that sets a setting.
func EnvName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// otelEnv are variables of the OpenTelemetry specification that are settings of
// ours; KEYMILL_* beats them. Further ones are read where they matter.
func otelEnv() map[string]string {
	return map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "telemetry.otlp_endpoint", "OTEL_EXPORTER_OTLP_PROTOCOL": "telemetry.protocol",
		"OTEL_EXPORTER_OTLP_CERTIFICATE": "telemetry.ca_file",
	}
}

// envSettings picks the settings from KEYMILL_* variables. An empty one is as
// good as none; one that sets nothing is an error, because a typo would show
// only in what the night has made. KEYMILL_TEST_* and KEYMILL_BENCH_* belong to
// the tests.
func envSettings(env []string) (map[string]any, error) {
	keys := map[string]string{}
	types := configKeys(reflect.TypeFor[Config](), "")
	for key := range types {
		keys[EnvName(key)] = key
	}
	set, otel := map[string]any{}, otelEnv()
	for _, pair := range env {
		if name, value, _ := strings.Cut(pair, "="); otel[name] != "" && value != "" {
			set[otel[name]] = value
		}
	}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		key, known := keys[name]
		switch {
		case !strings.HasPrefix(name, envPrefix) || value == "" || slices.Contains(envOthers(), name):
		case strings.HasPrefix(name, "KEYMILL_TEST_") || strings.HasPrefix(name, "KEYMILL_BENCH_"):
		case !known:
			names := append(slices.Sorted(maps.Keys(keys)), envOthers()...)
			return nil, fault.As(fault.Usage, pipeline.WithHint(
				fmt.Errorf("unknown environment variable %s%s", name, say.DidYouMean(say.Nearest(name, names))),
				"Correct it or unset it; `keymill config` lists every setting and its variable."))
		case !inEnv(types[key]):
			return nil, fault.Usagef("%s: %s cannot be set by the environment; set it in %s", name, key, File)
		default:
			set[key] = value
		}
	}
	return set, nil
}

// inEnv reports whether a setting of this type can be written in one variable.
func inEnv(t reflect.Type) bool {
	return t.Kind() != reflect.Map && (t.Kind() != reflect.Slice || t.Elem().Kind() == reflect.String)
}

// textProblems lists what variables or flags set, always as text, to something
// that their settings cannot be. origin names them.
func textProblems(given map[string]any, origin func(key string) string) error {
	types := configKeys(reflect.TypeFor[Config](), "")
	var all []error
	for _, key := range slices.Sorted(maps.Keys(given)) {
		text, ok := given[key].(string)
		if want := wrongText(strings.TrimSpace(text), types[key]); ok && want != "" {
			all = append(all, fmt.Errorf("%s is %q; it must be %s", origin(key), text, want))
		}
	}
	return errors.Join(all...)
}

// wrongText says what a text must be, "" if it is that.
func wrongText(text string, t reflect.Type) string {
	var err error
	want := ""
	switch {
	case t == reflect.TypeFor[time.Duration]():
		_, err = time.ParseDuration(text)
		want = wantDuration
	case t.Kind() == reflect.Bool:
		_, err = strconv.ParseBool(text)
		want = wantSwitch
	case t.Kind() == reflect.Float64:
		_, err = strconv.ParseFloat(text, 64)
		want = wantNumber
	case t.Kind() == reflect.Int:
		_, err = strconv.Atoi(text)
		want = wantCount
	}
	if err == nil {
		return ""
	}
	return want
}
