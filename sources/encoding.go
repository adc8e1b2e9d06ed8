package sources

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/text/encoding/unicode"
)

// sampleSize is how much of a file tells its encoding and delimiter.
const sampleSize = 1 << 15

// decodeCSV finds out a CSV file's encoding (UTF-8 or UTF-16, with or without
// byte order mark) and delimiter, and returns its text in UTF-8 without mark
// and without Excel's "sep=;" line.
func decodeCSV(r io.Reader) (io.Reader, rune, error) {
	raw := bufio.NewReaderSize(r, sampleSize)
	sample, err := peek(raw)
	if err != nil {
		return nil, 0, err
	}
	text := raw
	switch endian, found := utf16Order(sample); {
	case found:
		// UseBOM drops the mark if there is one.
		dec := unicode.UTF16(endian, unicode.UseBOM).NewDecoder()
		text = bufio.NewReaderSize(dec.Reader(raw), sampleSize)
		if sample, err = peek(text); err != nil {
			return nil, 0, err
		}
	case bytes.HasPrefix(sample, []byte("\xef\xbb\xbf")):
		if _, err := raw.Discard(3); err != nil {
			return nil, 0, err
		}
		sample = sample[3:]
	}
	if ends := lineEnds(sample); ends != nil {
		text = bufio.NewReaderSize(&lines{r: text, lone: ends.lone}, sampleSize)
		if sample, err = peek(text); err != nil {
			return nil, 0, err
		}
	}
	if line, _, ok := bytes.Cut(sample, []byte{'\n'}); ok {
		if d, isSep := sepLine(line); isSep {
			_, err := text.Discard(len(line) + 1)
			return text, d, err
		}
	}
	return text, sniffDelimiter(sample), nil
}

// ends says which line ends a file has beside LF and CR LF.
type ends struct{ lone bool } // lone CR, else CR CR LF

// lineEnds returns nil where LF and CR LF are all line ends of the sample. CR
// alone ends lines where no LF does: Excel for macOS wrote that for CSV, and
// breaks lines inside quotes by LF. CR CR LF comes from writing CR LF as text on
// Windows.
func lineEnds(sample []byte) *ends {
	quoted := false
	var cr, lf, crcrlf int
	for i, c := range sample {
		switch {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '\n':
			lf++
			if i > 1 && sample[i-1] == '\r' && sample[i-2] == '\r' {
				crcrlf++
			}
		case c == '\r':
			cr++
		}
	}
	switch {
	case cr > 0 && lf == 0:
		return &ends{lone: true}
	case crcrlf > 0:
		return &ends{}
	}
	return nil
}

// lines makes line ends LF: CR CR LF, and with lone also CR and CR LF.
type lines struct {
	r    *bufio.Reader
	lone bool
}

func (l *lines) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if n > 0 && l.r.Buffered() == 0 {
			return n, nil
		}
		c, err := l.r.ReadByte()
		if err != nil {
			return n, err
		}
		if c == '\r' {
			next, _ := l.r.Peek(2)
			switch {
			case bytes.Equal(next, []byte("\r\n")):
				_, _ = l.r.Discard(2)
				c = '\n'
			case l.lone:
				c = '\n'
				if len(next) > 0 && next[0] == '\n' {
					_, _ = l.r.Discard(1)
				}
			}
		}
		p[n] = c
		n++
	}
	return n, nil
}

// peek returns the beginning of what r holds, all of it if that is short.
func peek(r *bufio.Reader) ([]byte, error) {
	b, err := r.Peek(sampleSize)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// utf16Order recognises UTF-16 by its mark, or by the zero bytes of the ASCII
// letters that headers mostly consist of.
func utf16Order(sample []byte) (unicode.Endianness, bool) {
	switch {
	case bytes.HasPrefix(sample, []byte{0xff, 0xfe}):
		return unicode.LittleEndian, true
	case bytes.HasPrefix(sample, []byte{0xfe, 0xff}):
		return unicode.BigEndian, true
	}
	sample = sample[:min(len(sample), 64)&^1]
	var zeros [2]int
	for i, c := range sample {
		if c == 0 {
			zeros[i%2]++
		}
	}
	half := len(sample) / 2
	switch {
	case half >= 2 && zeros[1] > half*3/4 && zeros[0] == 0:
		return unicode.LittleEndian, true
	case half >= 2 && zeros[0] > half*3/4 && zeros[1] == 0:
		return unicode.BigEndian, true
	}
	return unicode.LittleEndian, false
}

// sepLine recognises the first line by which Excel is told the delimiter.
func sepLine(line []byte) (rune, bool) {
	d, ok := bytes.CutPrefix(bytes.ToLower(bytes.Trim(line, "\"\r")), []byte("sep="))
	if !ok || len(d) != 1 || !bytes.ContainsAny(d, ",;\t|") {
		return 0, false
	}
	return rune(d[0]), true
}

// decodeXML returns an XML document's text in UTF-8. Spreadsheets are written in
// UTF-8 or UTF-16 (ECMA-376 part 2, 8.1.4); a declaration of another encoding is
// an error.
func decodeXML(r io.Reader) (io.Reader, error) {
	raw := bufio.NewReaderSize(r, 1<<12)
	head, err := raw.Peek(256)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if endian, found := utf16Order(head); found {
		text := bufio.NewReaderSize(unicode.UTF16(endian, unicode.UseBOM).NewDecoder().Reader(raw), 1<<12)
		if head, err = text.Peek(5); err == nil && string(head) == "<?xml" {
			_, err = text.ReadSlice('>') // its declaration names the encoding that it no longer has
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return text, nil
	}
	if bytes.HasPrefix(head, []byte("\xef\xbb\xbf")) {
		if _, err := raw.Discard(3); err != nil {
			return nil, err
		}
		head = head[3:]
	}
	declaration, _, ok := bytes.Cut(head, []byte("?>"))
	if !ok || !bytes.HasPrefix(declaration, []byte("<?xml")) {
		return raw, nil
	}
	_, name, ok := bytes.Cut(declaration, []byte("encoding"))
	name = bytes.Trim(name, " \t\r\n=")
	if !ok || len(name) < 2 {
		return raw, nil
	}
	name, _, _ = bytes.Cut(name[1:], name[:1])
	if n := strings.ToLower(string(name)); n != "utf-8" && n != "utf8" && n != "us-ascii" {
		return nil, fmt.Errorf("it is encoded as %.20q, which no spreadsheet program writes", name)
	}
	return raw, nil
}
