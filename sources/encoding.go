package sources

import (
	"bufio"
	"bytes"
	"errors"
	"io"

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
	if !bytes.ContainsRune(sample, '\n') && bytes.Count(sample, []byte{'\r'}) > 1 {
		return nil, 0, refuse("the lines of the manifest end in CR alone, as on old Macs", "save it as CSV UTF-8")
	}
	if line, _, ok := bytes.Cut(sample, []byte{'\n'}); ok {
		if d, isSep := sepLine(line); isSep {
			_, err := text.Discard(len(line) + 1)
			return text, d, err
		}
	}
	return text, sniffDelimiter(sample), nil
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
