package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"text/template"
)

// Text is a text/template over a device's attributes, such as "{{.serial}}". It
// is safe for use by many goroutines.
type Text struct {
	name     string
	template *template.Template
}

// NewText parses a template; name says in errors which one it is.
func NewText(name, text string) (*Text, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, WithHint(fmt.Errorf("%s: %w", name, err), "Attributes are written {{.serial}}.")
	}
	return &Text{name, t}, nil
}

// Render returns the text for a device. An attribute that it does not have is an
// error.
func (t *Text) Render(dev *Device) (string, error) {
	var out strings.Builder
	if err := t.template.Execute(&out, dev.AttrMap()); err != nil {
		return "", fmt.Errorf("%s: %w", t.name, err)
	}
	return out.String(), nil
}

// Attributes returns the names of the attributes that the template renders
// without asking for them first.
func (t *Text) Attributes() []string {
	if t.template.Tree == nil {
		return nil
	}
	names := fieldsOf(t.template.Root, nil)
	slices.Sort(names)
	return slices.Compact(names)
}
