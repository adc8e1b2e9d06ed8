package reports

import (
	"math"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
)

// labelSize holds the measures of a built-in label in millimetres.
type labelSize struct {
	width, height float64
	margin        float64
	symbol        float64   // side of a square symbol, its quiet zone included
	bars          float64   // height of a linear one
	text          []float64 // heights of the lines' letters
}

var labelSizes = map[string]labelSize{
	"30x15": {width: 30, height: 15, margin: 1, symbol: 12, bars: 6, text: []float64{2.4, 1.9, 1.7}},
	"50x25": {width: 50, height: 25, margin: 1.5, symbol: 20, bars: 11, text: []float64{3.6, 2.7, 2.3}},
}

// labelSmallest is the least height of letters that can be read, in millimetres.
const labelSmallest = 1.2

// smallestModule is the least width of a module that hand-held scanners read
// from labels, in millimetres (GS1 asks for 0.254 with GS1 DataMatrix on
// labels that scanners read in trade; 0.25 is two dots of a 203 dpi printer).
const smallestModule = 0.245

// smallestBar is the same of a linear code's bars: two dots of a 300 dpi printer.
const smallestBar = 0.165

// placed is a built-in label with everything in its place, in millimetres.
type placed struct {
	module float64 // side, or width, of one module
	x, y   float64 // the symbol's upper left module
	bars   float64 // height of a linear symbol's modules
	lines  []placedLine
}

type placedLine struct {
	text         string
	x, y, height float64 // y is the letters' top; height that of capital letters and descenders
	bold         bool
}

// dots converts to the printer's dots.
func (l *Labels) dots(mm float64) int { return int(math.Round(mm * l.perMM())) }

// perMM is how many dots a millimetre has: 8 where the printer is called 203 dpi.
func (l *Labels) perMM() float64 {
	return map[int]float64{203: 8, 300: 12, 600: 24}[l.opt.DPI]
}

// fits makes sure that the symbol and all of the text have room.
func (l *Label) fits() error {
	_, err := l.place()
	return err
}

func (l *Label) place() (*placed, error) {
	size, s := l.labels.size, l.symbol
	room, smallest := size.symbol, smallestModule
	if s.linear {
		room, smallest = size.width, smallestBar
	}
	// Modules are whole dots: a module of a dot and a half would be one or two.
	perMM := l.labels.perMM()
	module := math.Floor(room*perMM/float64(s.cols+2*s.quiet)) / perMM
	if module < smallest {
		return nil, labelError("Use a larger label, a printer with more dots, or datamatrix.",
			"the code %q needs more room than a label of %s mm has at %d dpi", s.humanString, l.labels.opt.Size, l.labels.opt.DPI)
	}
	p := &placed{module: module}
	var textX, textY, textWidth float64
	if s.linear {
		p.bars = size.bars
		p.x = (size.width - module*float64(s.cols)) / 2
		p.y = size.height - size.margin - p.bars
		textX, textWidth, textY = size.margin, room-2*size.margin, size.margin
	} else {
		p.bars = module
		p.x = size.margin + (size.symbol-module*float64(s.cols))/2
		p.y = (size.height - module*float64(s.rows)) / 2
		textX = size.margin + size.symbol + size.margin
		textWidth = size.width - textX - size.margin
		textY = p.y
	}
	p.x, p.y = math.Round(p.x*perMM)/perMM, math.Round(p.y*perMM)/perMM
	return p, l.placeText(p, textX, textY, textWidth)
}

// placeText sets the lines below each other, smaller where they are long. A
// line is never cut: half a serial number is another one.
func (l *Label) placeText(p *placed, x, y, width float64) error {
	heights := l.labels.size.text
	for i, text := range l.lines {
		height := heights[min(i, len(heights)-1)]
		bold := i == 0
		if wide := textWidth(text, bold) * height; wide > width {
			height *= width / wide
		}
		if height < labelSmallest {
			return labelError("Use a larger label, or a template of your own.", "%q is too long for a label of %s mm", text, l.labels.opt.Size)
		}
		if l.symbol.linear && y+height > p.y {
			break // the bars are worth more than the lot's name
		}
		p.lines = append(p.lines, placedLine{text: text, x: x, y: y, height: height, bold: bold})
		y += height * 1.35
	}
	return nil
}

// labelFonts are parsed once; they are the Go fonts, which come with the program.
var labelFonts = sync.OnceValues(func() ([2]*opentype.Font, error) {
	regular, err := opentype.Parse(goregular.TTF)
	if err != nil {
		return [2]*opentype.Font{}, err
	}
	bold, err := opentype.Parse(gobold.TTF)
	return [2]*opentype.Font{regular, bold}, err
})

// labelFace returns a font of a size in dots.
func labelFace(bold bool, size float64) (font.Face, error) {
	fonts, err := labelFonts()
	if err != nil {
		return nil, err
	}
	index := 0
	if bold {
		index = 1
	}
	return opentype.NewFace(fonts[index], &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
}

// textWidth returns a text's width as a multiple of its height. The font that a
// printer has is a little narrower.
func textWidth(text string, bold bool) float64 {
	const size = 64
	face, err := labelFace(bold, size)
	if err != nil {
		return float64(len(text)) * 0.62
	}
	defer face.Close()
	return float64(font.MeasureString(face, text)) / 64 / size
}
