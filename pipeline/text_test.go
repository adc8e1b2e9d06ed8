package pipeline

import (
	"slices"
	"testing"
)

func TestText(t *testing.T) {
	dev := &Device{Identity: Identity{{Name: "mac", Value: "02:00"}}, Attrs: []Attr{{Name: "serial", Value: "S1"}}}
	text, err := NewText("server.device.name", "unit {{.serial}} at {{.mac}}{{if .batch}} of {{.batch}}{{end}}")
	if err != nil {
		t.Fatal(err)
	}
	if names := text.Attributes(); !slices.Equal(names, []string{"mac", "serial"}) {
		t.Errorf("attributes %v", names)
	}
	if _, err := text.Render(dev); err == nil { // batch is asked for, but the device has none
		t.Error("a missing attribute passed")
	}
	dev.Attrs = append(dev.Attrs, Attr{Name: "batch", Value: "B"})
	if got, err := text.Render(dev); got != "unit S1 at 02:00 of B" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := NewText("x", "{{.serial"); err == nil || Hint(err) == "" {
		t.Errorf("a broken template: %v", err)
	}
}
