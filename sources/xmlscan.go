package sources

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// xmlScan reads the tags of an XML document to its very end: a document cut
// short, or one whose elements do not close, is an error. encoding/xml would do
// it too, at a fifth of the speed; its users stop at the last element they know,
// which is how half a sheet is read as a whole one.
type xmlScan struct {
	r     *bufio.Reader
	open  []byte // names of the open elements, each followed by its length
	depth int
	begun bool

	// Of the tag that next returned, valid until the next call.
	name   []byte // local name, without namespace prefix
	prefix []byte // namespace prefix, often empty
	attrs  []byte
	level  int    // of the element: the root's is 1
	start  bool   // a start tag, also when it is empty as in <x/>
	end    bool   // an end tag, or an empty start tag
	text   []byte // character data since the last tag, decoded
}

const (
	xmlBuffer = 1 << 17 // longer than a cell's 32,767 characters can be
	xmlDepth  = 200
	xmlTag    = 1 << 20
)

var (
	errCut     = errors.New("it ends in the middle")
	errOutside = errors.New("it has text outside its elements")
	errTag     = errors.New("it has a tag that is not well-formed")
)

func newXMLScan(r io.Reader) *xmlScan { return newXMLScanSize(r, xmlBuffer) }

func newXMLScanSize(r io.Reader, buffer int) *xmlScan {
	return &xmlScan{r: bufio.NewReaderSize(r, buffer)}
}

// next advances to the next start or end tag. It returns io.EOF after the end
// of a complete document.
func (x *xmlScan) next() error {
	x.text = x.text[:0]
	for {
		text, err := x.r.ReadSlice('<')
		if errors.Is(err, io.EOF) {
			switch {
			case x.depth > 0 || !x.begun:
				return errCut
			case len(bytes.TrimSpace(text)) > 0:
				return errOutside
			}
			return io.EOF
		}
		if err != nil {
			return xmlError(err)
		}
		// A copy: reading on may move what the buffer holds.
		if x.text, err = appendText(x.text, text[:len(text)-1]); err != nil {
			return err
		}
		if len(x.text) > xmlTag {
			return xmlError(bufio.ErrBufferFull)
		}
		if x.depth == 0 && len(bytes.TrimLeft(x.text, "\ufeff \t\r\n")) > 0 {
			return errOutside
		}
		special, err := x.special()
		if err != nil {
			return xmlError(err)
		}
		if special {
			continue
		}
		return x.readTag()
	}
}

// appendText appends character data with its references replaced and its line
// ends made one (XML 1.0, 2.11 and 4.1). Only the five predefined entities
// exist where there is no document type.
func appendText(to, text []byte) ([]byte, error) {
	for {
		i := bytes.IndexAny(text, "&\r")
		if i < 0 {
			return append(to, text...), nil
		}
		to = append(to, text[:i]...)
		if text[i] == '\r' {
			to = append(to, '\n')
			if text = text[i+1:]; len(text) > 0 && text[0] == '\n' {
				text = text[1:]
			}
			continue
		}
		end := bytes.IndexByte(text[i:], ';')
		if end < 0 || end > 12 {
			return nil, errors.New("it has an & that begins no reference")
		}
		r, ok := reference(string(text[i+1 : i+end]))
		if !ok {
			return nil, fmt.Errorf("it has an unknown reference %.12q", text[i:i+end+1])
		}
		to = utf8.AppendRune(to, r)
		text = text[i+end+1:]
	}
}

// reference returns the character that &name; stands for.
func reference(name string) (rune, bool) {
	switch name {
	case "amp":
		return '&', true
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	if len(name) < 2 || name[0] != '#' {
		return 0, false
	}
	digits, base := name[1:], 10
	if digits[0] == 'x' {
		digits, base = digits[1:], 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n == 0 || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
		return 0, false
	}
	return rune(n), true
}

// special takes what begins with <? or <!: comments and processing instructions
// are skipped, CDATA is text. Document types are refused: no spreadsheet has
// one, and entity bombs need one.
func (x *xmlScan) special() (bool, error) {
	head, err := x.r.Peek(1)
	if err != nil {
		return false, err
	}
	switch head[0] {
	case '?':
		return true, x.skipTo("?>")
	case '!':
		head, err := x.r.Peek(3)
		if err != nil {
			return false, err
		}
		if string(head) == "!--" {
			return true, x.skipTo("-->")
		}
		if head, err = x.r.Peek(8); err == nil && string(head) == "![CDATA[" && x.depth > 0 {
			_, err = x.r.Discard(8)
			return true, errors.Join(err, x.cdata())
		}
		return false, errors.New("it has a document type, which no spreadsheet program writes")
	}
	return false, nil
}

// cdata appends the text of a CDATA section, up to its "]]>".
func (x *xmlScan) cdata() error {
	begin := len(x.text)
	for {
		part, err := x.r.ReadSlice('>')
		if err != nil {
			return err
		}
		if x.text = append(x.text, part...); len(x.text) > xmlTag {
			return bufio.ErrBufferFull
		}
		if raw, ok := bytes.CutSuffix(x.text[begin:], []byte("]]>")); ok {
			x.text = append(x.text[:begin], bytes.ReplaceAll(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))...)
			return nil
		}
	}
}

func (x *xmlScan) skipTo(end string) error {
	last := end[len(end)-1]
	var tail []byte
	for {
		part, err := x.r.ReadSlice(last)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		tail = append(tail, part[max(0, len(part)-len(end)):]...)
		tail = tail[max(0, len(tail)-len(end)):]
		if string(tail) == end {
			return nil
		}
	}
}

// readTag reads a tag after its "<".
func (x *xmlScan) readTag() error {
	tag, err := x.r.ReadSlice('>')
	if err != nil {
		return xmlError(err)
	}
	if in := inQuotes(0, tag); in != 0 {
		if tag, err = x.longTag(tag, in); err != nil {
			return xmlError(err)
		}
	}
	tag = tag[:len(tag)-1]
	x.begun = true
	if len(tag) > 0 && tag[0] == '/' {
		x.start, x.end, x.attrs = false, true, nil
		x.name = bytes.TrimRight(tag[1:], " \t\r\n")
		return x.pop()
	}
	x.start, x.end = true, false
	if n := len(tag); n > 0 && tag[n-1] == '/' {
		tag, x.end = tag[:n-1], true
	}
	x.name, x.attrs = tag, nil
	if i := bytes.IndexAny(tag, " \t\r\n"); i >= 0 {
		x.name, x.attrs = tag[:i], tag[i:]
	}
	if len(x.name) == 0 || len(x.name) > 255 {
		return errors.New("it has a tag without a usable name")
	}
	x.level = x.depth + 1
	if !x.end {
		if x.depth == xmlDepth {
			return errors.New("its elements are nested too deeply")
		}
		x.open = append(append(x.open, x.name...), byte(len(x.name)))
		x.depth++
	}
	x.prefix, x.name = local(x.name)
	return nil
}

// pop closes the innermost element, which must be the tag's.
func (x *xmlScan) pop() error {
	if x.depth == 0 {
		return errors.New("it closes an element that is not open")
	}
	end := len(x.open) - 1
	begin := end - int(x.open[end])
	if !bytes.Equal(x.open[begin:end], x.name) {
		return fmt.Errorf("the element %.20q is closed as %.20q", x.open[begin:end], x.name)
	}
	x.open = x.open[:begin]
	x.level = x.depth
	x.depth--
	x.prefix, x.name = local(x.name)
	return nil
}

// skip reads on behind the end of the element whose start tag was just read.
func (x *xmlScan) skip() error {
	if x.end {
		return nil
	}
	for level := x.level; ; {
		if err := x.next(); err != nil {
			return err
		}
		if !x.start && x.level == level {
			return nil
		}
	}
}

// blank reports whether nothing but white space stood before the tag.
func (x *xmlScan) blank() bool { return len(bytes.TrimSpace(x.text)) == 0 }

// longTag reads on while a ">" was part of an attribute's value, in the quotes in.
func (x *xmlScan) longTag(tag []byte, in byte) ([]byte, error) {
	long := bytes.Clone(tag)
	for in != 0 {
		more, err := x.r.ReadSlice('>')
		if err != nil {
			return nil, err
		}
		in = inQuotes(in, more)
		if long = append(long, more...); len(long) > xmlTag {
			return nil, bufio.ErrBufferFull
		}
	}
	return long, nil
}

// inQuotes returns the quote that is open after part, given the one that was
// open before it; 0 for none.
func inQuotes(in byte, part []byte) byte {
	for {
		if in == 0 {
			i := bytes.IndexAny(part, `"'`)
			if i < 0 {
				return 0
			}
			in, part = part[i], part[i+1:]
		}
		i := bytes.IndexByte(part, in)
		if i < 0 {
			return in
		}
		in, part = 0, part[i+1:]
	}
}

// local parts a name from its namespace prefix.
func local(name []byte) (prefix, rest []byte) {
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return nil, name
}

// cutAttr takes the next attribute off the tag's attributes: its name with
// prefix, and its value without the white space around it (all that is read
// here are numbers and tokens, whose white space XML Schema collapses). name is
// nil after the last one.
func cutAttr(attrs []byte) (name, value, rest []byte, err error) {
	rest = bytes.TrimLeft(attrs, " \t\r\n")
	if len(rest) == 0 {
		return nil, nil, nil, nil
	}
	eq := bytes.IndexByte(rest, '=')
	if eq <= 0 {
		return nil, nil, nil, errTag
	}
	name = bytes.TrimRight(rest[:eq], " \t\r\n")
	rest = bytes.TrimLeft(rest[eq+1:], " \t\r\n")
	if !xmlName(name) || len(rest) < 2 || rest[0] != '"' && rest[0] != '\'' {
		return nil, nil, nil, errTag
	}
	end := bytes.IndexByte(rest[1:], rest[0])
	if end < 0 {
		return nil, nil, nil, errTag
	}
	value, rest = rest[1:1+end], rest[end+2:]
	if bytes.IndexByte(value, '&') >= 0 {
		if value, err = appendText(nil, value); err != nil {
			return nil, nil, nil, err
		}
	}
	return name, bytes.TrimSpace(value), rest, nil
}

// xmlName reports whether a name can be an attribute's. Letters beyond ASCII are
// taken on trust.
func xmlName(name []byte) bool {
	for i, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c >= 0x80:
		case i > 0 && ('0' <= c && c <= '9' || c == '-' || c == '.' || c == ':'):
		default:
			return false
		}
	}
	return len(name) > 0
}

// attr returns the value of an attribute without prefix, nil if the tag has
// none.
func (x *xmlScan) attr(name string) ([]byte, error) {
	var found []byte
	for rest := x.attrs; ; {
		key, value, after, err := cutAttr(rest)
		if err != nil || key == nil {
			return found, err
		}
		if string(key) == name {
			if found != nil {
				return nil, errTag
			}
			found = append([]byte{}, value...)
		}
		rest = after
	}
}

func xmlError(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errCut
	case errors.Is(err, bufio.ErrBufferFull):
		return errors.New("it has text longer than a cell can hold")
	}
	return err
}
