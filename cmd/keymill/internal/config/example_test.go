package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

var update = flag.Bool("update", false, "write init.yaml and keymill.schema.json from the comments of Config")

// TestConfigFiles: what init writes and what editors read is what the comments
// say. `go generate` runs it with -update.
func TestConfigFiles(t *testing.T) {
	docs := structComments(t, "config.go", "station.go", "../../../../pipeline/inject.go")
	schema, err := json.MarshalIndent(docs.schema(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"init.yaml": docs.example(), SchemaFile: append(schema, '\n')} {
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): go generate ./cmd/keymill/internal/config", name, err)
		}
	}
}

// comments are what stands before structs (by type) and fields (by Type.Field).
type comments map[string]string

func structComments(t *testing.T, files ...string) comments {
	t.Helper()
	found := comments{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			spec := gen.Specs[0].(*ast.TypeSpec)
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			found[spec.Name.Name] = gen.Doc.Text()
			for _, field := range fields.Fields.List {
				for _, name := range field.Names {
					found[spec.Name.Name+"."+name.Name] = field.Doc.Text()
				}
			}
		}
	}
	return found
}

// of returns a field's comment in the words of the file, and the example that
// stands indented in it.
func (c comments) of(owner reflect.Type, field reflect.StructField) (text, example string) {
	doc := c[owner.Name()+"."+field.Name]
	section := field.Type
	if doc == "" && section.Kind() == reflect.Struct {
		doc = strings.ReplaceAll(c[section.Name()], section.Name(), field.Tag.Get("koanf"))
	}
	for i := range owner.NumField() {
		if key := owner.Field(i).Tag.Get("koanf"); key != "" {
			doc = regexp.MustCompile(`(?m)(^|\s)`+owner.Field(i).Name+`\b`).ReplaceAllString(doc, "${1}"+key)
		}
	}
	for line := range strings.Lines(doc) {
		if code, ok := strings.CutPrefix(line, "\t"); ok {
			example += code
		} else if strings.TrimSpace(line) != "" {
			text += line
		}
	}
	return strings.TrimRight(text, "\n"), strings.TrimRight(example, "\n")
}

func (c comments) example() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# yaml-language-server: $schema=%s\n#\n", SchemaFile)
	remark(&b, "", strings.Replace(c["Config"], "Config is everything that can be set. ", "The configuration of keymill.\n", 1)+
		"Settings behind a # have their default, or are examples where that is nothing.")
	c.section(&b, "", reflect.TypeFor[Config](), reflect.ValueOf(defaultConfig()))
	return b.Bytes()
}

func (c comments) section(b *bytes.Buffer, indent string, t reflect.Type, defaults reflect.Value) {
	names, fields := configFields(t)
	for _, name := range names {
		field := fields[name]
		value := defaults.FieldByIndex(field.Index)
		text, example := c.of(t, field)
		if indent == "" {
			b.WriteString("\n")
		}
		remark(b, indent, text)
		if field.Type.Kind() == reflect.Struct {
			fmt.Fprintf(b, "%s%s:\n", indent, name)
			c.section(b, indent+"  ", field.Type, value)
			continue
		}
		if example == "" {
			example = name + ": " + flowYAML(value)
		}
		mark := "#"
		if field.Tag.Get("init") == "set" {
			mark = ""
		}
		for line := range strings.Lines(example) {
			fmt.Fprintf(b, "%s%s%s\n", indent, mark, strings.TrimRight(line, "\n"))
		}
		if entry := field.Type; entry.Kind() == reflect.Slice && entry.Elem().Kind() == reflect.Struct {
			c.entries(b, indent, entry.Elem())
		}
	}
}

// entries explains the settings of a list's entries.
func (c comments) entries(b *bytes.Buffer, indent string, t reflect.Type) {
	remark(b, indent, "In an entry:")
	names, fields := configFields(t)
	for _, name := range names {
		if text, _ := c.of(t, fields[name]); text != "" {
			remark(b, indent, "  "+strings.ReplaceAll(text, "\n", "\n    "))
		}
	}
}

func remark(b *bytes.Buffer, indent, text string) {
	if text == "" {
		return
	}
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(b, "%s# %s\n", indent, strings.TrimRight(line, "\n"))
	}
}

func (c comments) schema() map[string]any {
	root := c.schemaOf(reflect.TypeFor[Config](), reflect.ValueOf(defaultConfig()), "")
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["title"] = "keymill.yaml"
	return root
}

func (c comments) schemaOf(t reflect.Type, defaults reflect.Value, prefix string) map[string]any {
	properties, last := map[string]any{}, ""
	names, fields := configFields(t)
	for _, name := range names {
		field := fields[name]
		var value reflect.Value
		if defaults.IsValid() {
			value = defaults.FieldByIndex(field.Index)
		}
		text, _ := c.of(t, field)
		if text == "" {
			text = last // one comment for both
		}
		last = text
		property := c.schemaType(field.Type, value, prefix+name+".")
		property["description"] = text
		for _, choice := range (&Config{}).Choices() {
			if choice.Name == prefix+name {
				property["enum"] = choice.Allowed
			}
		}
		properties[name] = property
	}
	return map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
}

func (c comments) schemaType(t reflect.Type, value reflect.Value, prefix string) map[string]any {
	var s map[string]any
	switch {
	case t == reflect.TypeFor[time.Duration]():
		s = map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$|^0$`}
	case t.Kind() == reflect.Struct:
		return c.schemaOf(t, value, prefix)
	case t.Kind() == reflect.Map:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": c.schemaType(t.Elem(), reflect.Value{}, "")}
	case t == reflect.TypeFor[TokenList]():
		s = map[string]any{"type": []string{"string", "array"}, "items": map[string]any{"type": "string"}}
	case t.Kind() == reflect.Slice:
		s = map[string]any{"type": "array", "items": c.schemaType(t.Elem(), reflect.Value{}, "")}
	case t.Kind() == reflect.String:
		s = map[string]any{"type": "string"}
	case t.Kind() == reflect.Bool:
		s = map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Float64:
		s = map[string]any{"type": "number"}
	default:
		s = map[string]any{"type": "integer"}
	}
	if value.IsValid() && !value.IsZero() && prefix != "audit.station." { // the host's name
		s["default"] = plain(value)
	}
	return s
}

// TestEverySettingIsExplained: no setting without a comment.
func TestEverySettingIsExplained(t *testing.T) {
	cfg := defaultConfig()
	list, err := cfg.InForce()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Meaning == "" {
			t.Errorf("%s has no comment in config.go", s.Setting)
		}
	}
}

// TestExampleConfigIsTheDefault: what init writes sets nothing but what it says
// must be set.
func TestExampleConfigIsTheDefault(t *testing.T) {
	path := t.TempDir() + "/keymill.yaml"
	if err := os.WriteFile(path, Example, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Layers{File: path}.Load()
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^(\s*)#(\S|  \S)`).ReplaceAllString(string(Example), "$1$2")
	full, err := loadText(t, all)
	if err != nil {
		t.Fatal(err)
	}
	for key := range configKeys(reflect.TypeFor[Config](), "") {
		if full.From[key] == "" {
			t.Errorf("%s is not shown as a setting", key)
		}
	}
	want := defaultConfig()
	want.Image.Golden = "golden.sdimg"
	if set := slices.Sorted(maps.Keys(got.From)); !slices.Equal(set, []string{"image.golden", "image.inject", "server.url"}) {
		t.Errorf("it sets %v", set)
	}
	got.From = nil
	if !reflect.DeepEqual(got.Image.Inject, pipeline.DefaultInject()) || got.Image.Golden != want.Image.Golden || got.Server.URL != want.Server.URL {
		t.Errorf("it says %+v", got)
	}
}
