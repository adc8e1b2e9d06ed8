package reports

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// ZPL II, "Programming Guide for ZPL II", Zebra P1099958. Coordinates are dots.

// zpl writes the label for a Zebra printer. The symbol goes as a graphic (^GFA),
// so that every printer prints the very modules that were tested, whatever its
// firmware knows of GS1.
func (l *Label) zpl(w io.Writer) error {
	p, err := l.place()
	if err != nil {
		return err
	}
	dots := l.labels.dots
	var b bytes.Buffer
	fmt.Fprintf(&b, "^XA\n^CI28\n^PW%d\n^LL%d\n^LH0,0\n", dots(l.labels.size.width), dots(l.labels.size.height))
	fmt.Fprintf(&b, "^FO%d,%d%s^FS\n", dots(p.x), dots(p.y), l.symbol.graphic(dots(p.module), dots(p.bars)))
	for _, line := range p.lines {
		fmt.Fprintf(&b, "^FO%d,%d^A0N,%d,%d^FH\\^FD%s^FS\n", dots(line.x), dots(line.y), dots(line.height), dots(line.height*0.9), zplText(line.text))
	}
	b.WriteString("^PQ1\n^XZ\n")
	_, err = w.Write(b.Bytes())
	return err
}

// zplText writes a value so that it prints as text after ^FH\: the prefixes of
// commands, the indicator itself and everything outside of ASCII in hexadecimal.
func zplText(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e || strings.IndexByte(`^~\_`, c) >= 0 {
			fmt.Fprintf(&b, `\%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// graphic returns the symbol as a ^GFA field; width and height of a module in dots.
func (s *symbol) graphic(width, height int) string {
	bytesPerRow := (s.cols*width + 7) / 8
	total := bytesPerRow * s.rows * height
	var b strings.Builder
	fmt.Fprintf(&b, "^GFA,%d,%d,%d,", total, total, bytesPerRow)
	line := make([]byte, bytesPerRow)
	for _, row := range s.dark {
		clear(line)
		for x, dark := range row {
			for dot := x * width; dark && dot < (x+1)*width; dot++ {
				line[dot/8] |= 0x80 >> (dot % 8)
			}
		}
		for range height {
			fmt.Fprintf(&b, "%X", line)
		}
	}
	return b.String()
}
