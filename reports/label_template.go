package reports

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strings"
	"text/template"
)

// labelTemplate is somebody's own label, ZPL or SVG, with the values of
// attributes in it as text/template writes them: {{.serial}}. Beside the
// manifest's attributes there are
//
//	{{.code}}    what the label's code says
//	{{.gs1}}     the same for ^BX with _ as its escape character (^BXN,5,200,,,,_), or in SVG as people read it
//	{{.link}}    the GS1 Digital Link
//	{{.symbol}}  the code as this program draws it: in ZPL a ^GFA field, in SVG an image for href
//	{{.lot}} {{.unit}}
//
// A value that the device does not have is an error, however it is named.
type labelTemplate struct {
	svg  bool
	tmpl *template.Template
}

// zplPrefixes finds commands that change what begins a command.
var zplPrefixes = regexp.MustCompile(`(?i)[\^~]C[CDT]`)

func parseLabelTemplate(text string) (*labelTemplate, error) {
	t := &labelTemplate{}
	trimmed := strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(trimmed, "<"):
		t.svg = true
	case strings.HasPrefix(trimmed, "^XA"):
		if err := checkZPLTemplate(text); err != nil {
			return nil, err
		}
	default:
		return nil, labelError("A ZPL template begins with ^XA, an SVG template with <.", "the label template is neither ZPL nor SVG")
	}
	funcs := template.FuncMap{
		// The language's own index gives nothing where a name is missing.
		"index": func(values map[string]string, name string) (string, error) {
			if value, ok := values[name]; ok {
				return value, nil
			}
			return "", fmt.Errorf("map has no entry for key %q", name)
		},
	}
	tmpl, err := template.New("label").Option("missingkey=error").Funcs(funcs).Parse(text)
	if err != nil {
		return nil, labelError("Values are written as {{.serial}}.", "the label template: %v", err)
	}
	t.tmpl = tmpl
	return t, nil
}

// checkZPLTemplate makes sure that values stand only where the printer takes
// them for text: in ^FD, after ^FH\.
func checkZPLTemplate(text string) error {
	if zplPrefixes.MatchString(text) {
		return labelError("Take ^CC, ^CD and ^CT out of it.", "the ZPL template changes the printer's prefixes, so that values could not be escaped")
	}
	for _, field := range strings.Split(text, "^FS") {
		before, data, isData := strings.Cut(field, "^FD")
		if strings.Contains(strings.ReplaceAll(before, "{{.symbol}}", ""), "{{") {
			return labelError(`Write values as ^FH\^FD{{.serial}}^FS.`, "the ZPL template has a value outside of ^FD .. ^FS, where it could be a command")
		}
		if !isData || !strings.Contains(data, "{{") {
			continue
		}
		if strings.Contains(data, "{{.symbol}}") {
			return labelError("Write it as ^FO10,10{{.symbol}}^FS.", "the ZPL template has {{.symbol}} in ^FD, but it is a field of its own")
		}
		if !strings.HasSuffix(strings.TrimSpace(before), `^FH\`) {
			return labelError(`Write ^FH\ before ^FD.`, "the ZPL template has a value in ^FD without ^FH\\, so that ^ and ~ in it would be commands")
		}
	}
	return nil
}

// custom writes the label by its template.
func (l *Label) custom(w io.Writer) error {
	t := l.labels.custom
	values := maps.Clone(l.values)
	if t.svg {
		for name, value := range values {
			values[name] = xmlText(value)
		}
		values["gs1"] = xmlText(l.symbol.humanString)
		values["symbol"] = l.symbol.dataURI()
	} else {
		for name, value := range values {
			values[name] = zplText(value)
		}
		values["gs1"] = zplEscaped(l.Code)
		dots := l.labels.dots
		module := dots(smallestModule + 0.1)
		height := module
		if l.symbol.linear {
			height = dots(l.labels.size.bars)
		}
		values["symbol"] = l.symbol.graphic(module, height)
	}
	if l.labels.gtin == "" {
		delete(values, "gs1")
	}
	var b bytes.Buffer
	if err := t.tmpl.Execute(&b, values); err != nil {
		if _, missing, ok := strings.Cut(err.Error(), "map has no entry for key "); ok {
			return labelError("Complete the manifest, or take the value out of the template.", "this device has no %s, which its label needs", strings.Trim(missing, `"`))
		}
		return labelError("Look at the label template.", "the label template: %v", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// zplEscaped writes a GS1 code for ^BX with _ as its escape character: _1 is
// FNC1, __ an underscore; then what ^FH\ takes.
func zplEscaped(code string) string {
	var b strings.Builder
	b.WriteString("_1")
	for _, c := range []byte(code) {
		switch c {
		case gs[0]:
			b.WriteString("_1")
		case '_':
			b.WriteString("__")
		case '^', '~', '\\':
			fmt.Fprintf(&b, `\%02X`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// dataURI returns the symbol as an image, one unit a module, quiet zone included.
func (s *symbol) dataURI() string {
	height := s.rows + 2*s.quiet
	scale, top := 1, s.quiet
	if s.linear {
		height, scale, top = s.cols/3, s.cols/3, 0
	}
	image := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d"><rect width="100%%" height="100%%" fill="#fff"/><path transform="translate(%d %d) scale(1 %d)" d="%s" shape-rendering="crispEdges"/></svg>`,
		s.cols+2*s.quiet, height, s.quiet, top, scale, s.path())
	return "data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString([]byte(image))
}

// writeCustom writes a label of somebody's own in the one format that its
// template has.
func (l *Label) writeCustom(w io.Writer, format string) error {
	if format == l.labels.Printed() {
		return l.custom(w)
	}
	return labelError("Name a file that ends in ."+l.labels.Printed()+".", "the label template is %s, so there is no %s of it", strings.ToUpper(l.labels.Printed()), format)
}
