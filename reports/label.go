package reports

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"keymill/pipeline"
)

// LabelOptions says what labels look like and what their code says.
type LabelOptions struct {
	// Template is the text of a ZPL or SVG template; empty: the built-in one.
	Template string
	// Size is that of the built-in template in millimetres: 30x15 or 50x25.
	Size string
	// Symbol is datamatrix, qr or code128.
	Symbol string
	// Content is gs1 (element strings), link (GS1 Digital Link) or plain. Empty:
	// gs1 where there is a GTIN, link where the symbol is qr, else plain.
	Content string
	// GTIN is the article's number with its check digit, 8 to 14 digits.
	GTIN string
	// Serial names the attribute that the code holds. Empty: serial, or where a
	// device has none, its identity's first value.
	Serial string
	// LinkBase is the beginning of Digital Links; empty: https://id.gs1.org.
	LinkBase string
	// DPI is the printer's resolution: 203, 300 or 600.
	DPI int
}

// The labels' symbols and contents.
const (
	SymbolDataMatrix = "datamatrix"
	SymbolQR         = "qr"
	SymbolCode128    = "code128"

	ContentGS1   = "gs1"
	ContentLink  = "link"
	ContentPlain = "plain"
)

// Labels makes labels of one kind. It is safe for use by many goroutines.
type Labels struct {
	opt    LabelOptions
	gtin   string // 14 digits; empty without one
	size   labelSize
	custom *labelTemplate // nil: the built-in one
}

// LabelError says why a label cannot be printed.
type LabelError struct{ Text, Advice string }

func (e *LabelError) Error() string { return e.Text }

// Hint says what to do next.
func (e *LabelError) Hint() string { return e.Advice }

func labelError(advice, format string, args ...any) error {
	return &LabelError{Text: fmt.Sprintf(format, args...), Advice: advice}
}

// NewLabels checks the options.
func NewLabels(opt LabelOptions) (*Labels, error) {
	l := &Labels{opt: opt}
	if err := l.fill(); err != nil {
		return nil, err
	}
	size, ok := labelSizes[l.opt.Size]
	if !ok {
		return nil, labelError("Set label.size to 30x15 or 50x25, or bring a template of your own.", "no built-in label is of size %q", l.opt.Size)
	}
	l.size = size
	if !slices.Contains([]int{203, 300, 600}, l.opt.DPI) {
		return nil, labelError("Set label.dpi to 203, 300 or 600.", "printers of %d dots per inch are not known", l.opt.DPI)
	}
	gtin, err := fullGTIN(l.opt.GTIN)
	if err != nil {
		return nil, err
	}
	l.gtin = gtin
	if err := l.checkContent(); err != nil {
		return nil, err
	}
	if opt.Template != "" {
		if l.custom, err = parseLabelTemplate(opt.Template); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Labels) fill() error {
	o := &l.opt
	if o.Size == "" {
		o.Size = "50x25"
	}
	if o.DPI == 0 {
		o.DPI = 203
	}
	if o.Symbol == "" {
		o.Symbol = SymbolDataMatrix
	}
	if o.LinkBase == "" {
		o.LinkBase = "https://id.gs1.org"
	}
	o.LinkBase = strings.TrimRight(o.LinkBase, "/")
	if o.Content == "" {
		switch {
		case o.GTIN == "":
			o.Content = ContentPlain
		case o.Symbol == SymbolQR:
			o.Content = ContentLink
		default:
			o.Content = ContentGS1
		}
	}
	if !slices.Contains([]string{SymbolDataMatrix, SymbolQR, SymbolCode128}, o.Symbol) {
		return labelError("Set label.symbol to datamatrix, qr or code128.", "the symbol %q is not known", o.Symbol)
	}
	if !slices.Contains([]string{ContentGS1, ContentLink, ContentPlain}, o.Content) {
		return labelError("Set label.content to gs1, link or plain.", "the content %q is not known", o.Content)
	}
	return nil
}

func (l *Labels) checkContent() error {
	switch o := l.opt; {
	case o.Content != ContentPlain && l.gtin == "":
		return labelError("Set label.gtin to the article's number, or label.content to plain.", "a label with content %s needs a GTIN", o.Content)
	case o.Content == ContentGS1 && o.Symbol == SymbolQR:
		return labelError("Set label.content to link, or label.symbol to datamatrix.", "GS1 element strings do not go into QR codes here")
	}
	return nil
}

// LabelUnit is what a label is made for.
type LabelUnit struct {
	Lot     string
	Device  *pipeline.Device
	Number  int    // the unit's number in its lot
	Again   bool   // an earlier unit of this device had a label
	Sticker string // the code on the unit's own sticker, as it was scanned; may be empty
}

// Label is one label, ready to be written.
type Label struct {
	// Code is what a scanner reads from it, without an AIM prefix: element
	// strings are separated by GS (0x1D).
	Code string

	labels *Labels
	symbol *symbol
	lines  []string
	values map[string]string
}

// Label makes the label of a unit. It refuses values that are missing, or that
// the code cannot hold.
func (l *Labels) Label(unit LabelUnit) (*Label, error) {
	code, err := l.code(unit)
	if err != nil {
		return nil, err
	}
	sym, err := l.encode(code)
	if err != nil {
		return nil, err
	}
	label := &Label{Code: code, labels: l, symbol: sym, values: labelValues(unit, code, l.linkOf(unit, code))}
	if l.custom != nil {
		// What is missing is said now, before anything is printed.
		return label, label.custom(io.Discard)
	}
	label.lines = labelLines(unit)
	return label, label.fits()
}

// labelLines are the built-in template's lines: by what people know the device,
// by what the server does, and the lot.
func labelLines(unit LabelUnit) []string {
	name := unit.Device.Identity.String()
	if len(unit.Device.Identity) > 0 {
		name = unit.Device.Identity[0].Value
	}
	var lines []string
	if serial, ok := unit.Device.Attr("serial"); ok && serial != "" && serial != name {
		lines = append(lines, serial)
	}
	lines = append(lines, name)
	if unit.Lot != "" {
		lines = append(lines, unit.Lot)
	}
	return lines
}

// labelValues is what a template can name: the device's attributes that have a
// value, and names of ours, which go before them.
func labelValues(unit LabelUnit, code, link string) map[string]string {
	values := map[string]string{}
	for _, list := range [][]pipeline.Attr{unit.Device.Identity, unit.Device.Attrs} {
		for _, a := range list {
			if a.Value != "" {
				values[a.Name] = a.Value
			}
		}
	}
	values["code"] = code
	values["lot"] = unit.Lot
	values["unit"] = fmt.Sprint(unit.Number)
	if link != "" {
		values["link"] = link
	}
	return values
}

// LabelFormats are the formats that a label is written in.
var LabelFormats = []string{"zpl", "png", "svg", "pdf"}

// Write writes the label as zpl, png, svg or pdf.
func (l *Label) Write(w io.Writer, format string) error {
	if l.labels.custom != nil {
		return l.writeCustom(w, format)
	}
	switch format {
	case "zpl":
		return l.zpl(w)
	case "png":
		return l.png(w)
	case "svg":
		return l.svg(w)
	case "pdf":
		return l.pdf(w)
	}
	return labelError("Name a file that ends in .zpl, .png, .svg or .pdf.", "labels are not written as %q", format)
}

// Printed is the format that this kind of label is sent to a printer in.
func (l *Labels) Printed() string {
	if l.custom != nil && l.custom.svg {
		return "svg"
	}
	return "zpl"
}
