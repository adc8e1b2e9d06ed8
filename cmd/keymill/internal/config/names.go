package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
)

// configFields returns the settings of a section by name, in the struct's order.
func configFields(section reflect.Type) (names []string, fields map[string]reflect.StructField) {
	fields = map[string]reflect.StructField{}
	for i := range section.NumField() {
		field := section.Field(i)
		if name := field.Tag.Get("koanf"); name != "" {
			names, fields[name] = append(names, name), field
		}
	}
	return names, fields
}

// configKeys returns the dotted names of all settings, without sections.
func configKeys(section reflect.Type, prefix string) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	names, fields := configFields(section)
	for _, name := range names {
		if t := fields[name].Type; t.Kind() == reflect.Struct {
			maps.Copy(keys, configKeys(t, prefix+name+"."))
		} else {
			keys[prefix+name] = t
		}
	}
	return keys
}

// configNames are the names of configKeys and their sections, sorted.
func configNames() []string {
	names := slices.Collect(maps.Keys(configKeys(reflect.TypeFor[Config](), "")))
	sections, _ := configFields(reflect.TypeFor[Config]())
	names = append(names, sections...)
	slices.Sort(names)
	return slices.Compact(names)
}

// fileProblems lists what of a configuration file is unknown or of the wrong
// type, each with its line.
func fileProblems(path string, data []byte) error {
	var doc, further yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) || len(doc.Content) == 0 {
		return nil
	}
	c := nodeCheck{path: path, names: configNames()}
	if err := decoder.Decode(&further); !errors.Is(err, io.EOF) {
		c.problem(&further, "a second document begins; there can be one only")
	}
	c.value("", doc.Content[0], reflect.TypeFor[Config]())
	if len(c.problems) == 0 {
		return nil
	}
	return fault.As(fault.Usage, pipeline.WithHint(errors.New(strings.Join(c.problems, "\n  ")),
		"`keymill config` lists every setting and its meaning."))
}

// nodeCheck compares a file's YAML with the configuration's struct.
type nodeCheck struct {
	path     string
	names    []string
	problems []string
}

func (c *nodeCheck) problem(node *yaml.Node, format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf("%s:%d: ", c.path, node.Line)+fmt.Sprintf(format, args...))
}

func (c *nodeCheck) value(name string, node *yaml.Node, t reflect.Type) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Tag == "!!null" {
		return
	}
	switch {
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		c.section(name, node, t)
	case t.Kind() == reflect.Slice && node.Kind == yaml.SequenceNode:
		for i, entry := range node.Content {
			c.value(fmt.Sprintf("%s[%d]", name, i), entry, t.Elem())
		}
	case t == reflect.TypeFor[[]string]() && node.Tag == "!!str": // parted by commas
	case t.Kind() == reflect.Slice:
		c.problem(node, "%s is %s; it must be a list", name, saidAs(node))
	default:
		if want := wrongScalar(node, t); want != "" {
			c.problem(node, "%s is %s; it must be %s", name, saidAs(node), want)
		}
	}
}

func (c *nodeCheck) section(name string, node *yaml.Node, t reflect.Type) {
	if node.Kind != yaml.MappingNode {
		if name == "" {
			name = "the file"
		}
		c.problem(node, "%s is %s; it must be names and values", name, saidAs(node))
		return
	}
	prefix := name
	if prefix != "" {
		prefix += "."
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case key.Tag == "!!merge":
			c.value(name, value, t)
		case t.Kind() == reflect.Map:
			c.value(prefix+key.Value, value, t.Elem())
		default:
			names, fields := configFields(t)
			if field, ok := fields[key.Value]; ok {
				c.value(prefix+key.Value, value, field.Type)
				continue
			}
			if strings.Contains(key.Value, ".") && slices.Contains(c.names, key.Value) {
				c.problem(key, "%s is written as sections: %s", prefix+key.Value, strings.ReplaceAll(key.Value, ".", ": {")+": .."+strings.Repeat("}", strings.Count(key.Value, ".")))
				continue
			}
			for i := range names {
				names[i] = prefix + names[i]
			}
			c.problem(key, "%s is unknown%s", prefix+key.Value, say.DidYouMean(say.Nearest(prefix+key.Value, append(names, c.names...))))
		}
	}
}

// saidAs describes a value that is not what it must be.
func saidAs(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a section"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case node.Tag == "!!str":
		return "the text " + strconv.Quote(node.Value)
	case node.Tag == "!!int" || node.Tag == "!!float":
		return "the number " + node.Value
	}
	return node.Value
}

// What a value must be.
const (
	wantDuration = "a duration with a unit, such as 90s or 15m"
	wantSwitch   = "true or false"
	wantNumber   = "a number"
	wantCount    = "a whole number"
)

// wrongScalar says what a value must be, "" if it is that.
func wrongScalar(node *yaml.Node, t reflect.Type) string {
	scalar := node.Kind == yaml.ScalarNode
	switch {
	case t == reflect.TypeFor[time.Duration]():
		if _, err := time.ParseDuration(node.Value); !scalar || err != nil {
			return wantDuration
		}
	case t.Kind() == reflect.String:
		if !scalar || node.Tag != "!!str" {
			return "text" + inQuotes(node)
		}
	case t.Kind() == reflect.Bool:
		if node.Tag != "!!bool" {
			return wantSwitch
		}
	case t.Kind() == reflect.Float64:
		if node.Tag != "!!int" && node.Tag != "!!float" {
			return wantNumber
		}
	default:
		if _, err := strconv.Atoi(node.Value); !scalar || err != nil && node.Tag != "!!int" {
			return wantCount
		}
	}
	return ""
}

// inQuotes says how to write as text what YAML takes for something else, as the
// octal mode 0600.
func inQuotes(node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode {
		return ""
	}
	return ": write " + strconv.Quote(node.Value)
}
