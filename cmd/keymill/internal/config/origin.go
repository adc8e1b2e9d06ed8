package config

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Schema describes keymill.yaml to editors, and the settings to people.
// `go generate` makes it from the comments of Config.
//
//go:embed keymill.schema.json
var Schema []byte

// origins says by setting where it was set: flag, environment, file or lot.
// What is missing has its default.
func (l Layers) origins(file, env map[string]any) map[string]string {
	from := map[string]string{}
	for key := range configKeys(reflect.TypeFor[Config](), "") {
		if l.Lot[key] != nil {
			from[key] = "lot"
		}
		if gives(file, key) {
			from[key] = l.path()
		}
		if env[key] != nil {
			from[key] = l.envOf(key)
		}
		if l.Flags[key] != nil {
			from[key] = "--" + flagOf(key)
		}
	}
	return from
}

// envOf is the variable that a setting comes from.
func (l Layers) envOf(key string) string {
	for name, of := range otelEnv() {
		own := slices.ContainsFunc(l.Env, func(pair string) bool {
			return strings.HasPrefix(pair, EnvName(key)+"=") && pair != EnvName(key)+"="
		})
		if of == key && !own {
			return name
		}
	}
	return EnvName(key)
}

// gives reports whether a file's sections contain a setting.
func gives(section map[string]any, key string) bool {
	name, rest, deeper := strings.Cut(key, ".")
	value, ok := section[name]
	if !ok || !deeper {
		return ok
	}
	inner, ok := value.(map[string]any)
	return ok && gives(inner, rest)
}

func flagOf(key string) string {
	for name, s := range Flags() {
		if s.Key == key {
			return name
		}
	}
	return key
}

// Where returns where a setting was set; "" for its default.
func (c *Config) Where(key string) string { return c.From[key] }

// SettingView is a setting in force. It is an element of `config --json`.
type SettingView struct {
	Setting string `json:"setting"`
	Value   any    `json:"value"`
	From    string `json:"from"`
	Env     string `json:"env,omitempty"`
	Meaning string `json:"meaning"`
}

// InForce lists all settings, sorted by name. Secrets are blotted out.
func (c *Config) InForce() ([]SettingView, error) {
	var schema schemaNode
	if err := json.Unmarshal(Schema, &schema); err != nil {
		return nil, fmt.Errorf("the schema: %w", err)
	}
	keys := configKeys(reflect.TypeFor[Config](), "")
	list := make([]SettingView, 0, len(keys))
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		view := SettingView{Setting: key, Value: c.shown(key), From: c.From[key], Meaning: schema.meaning(key)}
		if view.From == "" {
			view.From = "default"
		}
		if inEnv(keys[key]) {
			view.Env = EnvName(key)
		}
		list = append(list, view)
	}
	return list, nil
}

// shown is a setting's value as YAML, on one line.
func (c *Config) shown(key string) string {
	value := reflect.ValueOf(*c)
	for part := range strings.SplitSeq(key, ".") {
		_, fields := configFields(value.Type())
		value = value.FieldByIndex(fields[part].Index)
	}
	return blotted(key, flowYAML(value))
}

// flowYAML writes a value as YAML on one line.
func flowYAML(value reflect.Value) string {
	var node yaml.Node
	if err := node.Encode(plain(value)); err != nil {
		return fmt.Sprint(value)
	}
	flow(&node)
	text, err := yaml.Marshal(&node)
	if err != nil {
		return fmt.Sprint(value)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

func flow(node *yaml.Node) {
	node.Style |= yaml.FlowStyle
	for _, child := range node.Content {
		flow(child)
	}
}

// plain turns sections into maps that have what is set of them.
func plain(value reflect.Value) any {
	switch value.Kind() {
	case reflect.Struct:
		names, fields := configFields(value.Type())
		section := map[string]any{}
		for _, name := range names {
			if field := value.FieldByIndex(fields[name].Index); !field.IsZero() {
				section[name] = plain(field)
			}
		}
		return section
	case reflect.Map:
		section := map[string]any{}
		for _, key := range value.MapKeys() {
			section[key.String()] = plain(value.MapIndex(key))
		}
		return section
	case reflect.Slice:
		list := make([]any, value.Len())
		for i := range list {
			list[i] = plain(value.Index(i))
		}
		return list
	}
	if text, ok := value.Interface().(fmt.Stringer); ok {
		return shortDuration(text.String())
	}
	return value.Interface()
}

// shortDuration drops what is nothing from 15m0s.
func shortDuration(text string) string {
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

// secretParts are what can be secret in a setting: a PIN in a token's URI, a
// password in a URL or a connection string.
var secretParts = regexp.MustCompile(`(pin-value=)[^;&"'\s]+|(password=)[^&"'\s]+|(://[^:/@"'\s]*:)[^@/"'\s]+(?:@)`)

// blotted returns a setting's value without what is secret in it. A webhook's
// path is: many services have no other key.
func blotted(key, value string) string {
	if key == "notify.url" {
		if u, err := url.Parse(value); err == nil && u.Host != "" && strings.Trim(u.Path, "/")+u.RawQuery != "" {
			return u.Scheme + "://" + u.Host + "/..."
		}
	}
	return secretParts.ReplaceAllStringFunc(value, func(part string) string {
		groups := secretParts.FindStringSubmatch(part)
		if groups[3] != "" {
			return groups[3] + "...@"
		}
		return groups[1] + groups[2] + "..."
	})
}

// schemaNode is what of the schema people read.
type schemaNode struct {
	Description string                `json:"description"`
	Properties  map[string]schemaNode `json:"properties"`
}

func (s schemaNode) meaning(key string) string {
	for part := range strings.SplitSeq(key, ".") {
		s = s.Properties[part]
	}
	return s.Description
}
