package reports

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
	"strings"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"
)

// ascent is where a line's letters stand, as a share of its height.
const ascent = 0.8

// png writes the label as the printer would print it, dot for dot but for the
// font.
func (l *Label) png(w io.Writer) error {
	p, err := l.place()
	if err != nil {
		return err
	}
	dots := l.labels.dots
	img := image.NewGray(image.Rect(0, 0, dots(l.labels.size.width), dots(l.labels.size.height)))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	left, top, width, height := dots(p.x), dots(p.y), dots(p.module), dots(p.bars)
	for y, row := range l.symbol.dark {
		for x, dark := range row {
			if dark {
				at := image.Pt(left+x*width, top+y*height)
				draw.Draw(img, image.Rectangle{Min: at, Max: at.Add(image.Pt(width, height))}, image.Black, image.Point{}, draw.Src)
			}
		}
	}
	for _, line := range p.lines {
		face, err := labelFace(line.bold, line.height*l.labels.perMM())
		if err != nil {
			return err
		}
		d := font.Drawer{Dst: img, Src: image.NewUniform(color.Black), Face: face,
			Dot: fixed.P(dots(line.x), dots(line.y+line.height*ascent))}
		d.DrawString(line.text)
		if err := face.Close(); err != nil {
			return err
		}
	}
	return png.Encode(w, img)
}

// svg writes the label in millimetres.
func (l *Label) svg(w io.Writer) error {
	p, err := l.place()
	if err != nil {
		return err
	}
	size := l.labels.size
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%gmm" height="%gmm" viewBox="0 0 %g %g">`+"\n", size.width, size.height, size.width, size.height)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="#fff"/>`+"\n", size.width, size.height)
	fmt.Fprintf(&b, `<path transform="translate(%g %g) scale(%g %g)" d="%s" shape-rendering="crispEdges"/>`+"\n", p.x, p.y, p.module, p.bars, l.symbol.path())
	for _, line := range p.lines {
		weight := "normal"
		if line.bold {
			weight = "bold"
		}
		fmt.Fprintf(&b, `<text x="%.3f" y="%.3f" font-family="Go, Helvetica, Arial, sans-serif" font-size="%.3f" font-weight="%s">%s</text>`+"\n",
			line.x, line.y+line.height*ascent, line.height, weight, xmlText(line.text))
	}
	b.WriteString("</svg>\n")
	_, err = w.Write(b.Bytes())
	return err
}

// path draws the dark modules, one unit each, as an SVG path.
func (s *symbol) path() string {
	var b strings.Builder
	for y, row := range s.dark {
		for x := 0; x < len(row); x++ {
			from := x
			for x < len(row) && row[x] {
				x++
			}
			if x > from {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", from, y, x-from, x-from)
			}
		}
	}
	return b.String()
}

// xmlText escapes a value for text and attributes.
func xmlText(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}

// pdf writes a page of the label's size.
func (l *Label) pdf(w io.Writer) error {
	p, err := l.place()
	if err != nil {
		return err
	}
	size := l.labels.size
	doc := fpdf.NewCustom(&fpdf.InitType{OrientationStr: "L", UnitStr: "mm", Size: fpdf.SizeType{Wd: size.height, Ht: size.width}})
	text := doc.UnicodeTranslatorFromDescriptor("cp1252")
	doc.SetAutoPageBreak(false, 0)
	doc.SetMargins(0, 0, 0)
	doc.AddPage()
	doc.SetFillColor(0, 0, 0)
	for y, row := range l.symbol.dark {
		for x, dark := range row {
			if dark {
				// A hair wider than the grid, so that no viewer shows gaps.
				doc.Rect(p.x+float64(x)*p.module, p.y+float64(y)*p.bars, p.module+0.005, p.bars+0.005, "F")
			}
		}
	}
	const pointsPerMM = 72 / 25.4
	for _, line := range p.lines {
		style := ""
		if line.bold {
			style = "B"
		}
		doc.SetFont("Helvetica", style, math.Floor(line.height*pointsPerMM*10)/10)
		doc.Text(line.x, line.y+line.height*ascent, text(visible(line.text)))
	}
	return doc.Output(w)
}

// SymbolSVG draws a text as a code of its own, for sheets of codes: datamatrix, qr
// or code128, one unit a module, quiet zone included.
func SymbolSVG(kind, text string) (string, error) {
	labels, err := NewLabels(LabelOptions{Symbol: kind, Content: ContentPlain})
	if err != nil {
		return "", err
	}
	s, err := labels.encode(text)
	if err != nil {
		return "", err
	}
	width, height, scale, top := s.cols+2*s.quiet, s.rows+2*s.quiet, 1, s.quiet
	if s.linear {
		scale, top = 28, 0
		height = scale
	}
	return fmt.Sprintf(`<svg class="%s" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-hidden="true"><path transform="translate(%d %d) scale(1 %d)" d="%s" shape-rendering="crispEdges"/></svg>`,
		kind, width, height, width, height, s.quiet, top, scale, s.path()), nil
}
