package sources

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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
	name  []byte // local name, without namespace prefix
	attrs []byte
	start bool   // a start tag, also when it is empty as in <x/>
	end   bool   // an end tag, or an empty start tag
	text  []byte // character data since the last tag, entities as they are
}

const (
	xmlBuffer = 1 << 17 // longer than a cell's 32,767 characters can be
	xmlDepth  = 200
	xmlTag    = 1 << 20
)

var (
	errCut     = errors.New("it ends in the middle")
	errOutside = errors.New("it has text outside its elements")
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
		x.text = append(x.text, text[:len(text)-1]...)
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

// special skips comments and processing instructions. Document types are
// refused: no spreadsheet has one, and entity bombs need one.
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
		return false, errors.New("it has a document type or CDATA, which no spreadsheet program writes")
	}
	return false, nil
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
	if !x.end {
		if x.depth == xmlDepth {
			return errors.New("its elements are nested too deeply")
		}
		x.open = append(append(x.open, x.name...), byte(len(x.name)))
		x.depth++
	}
	x.name = local(x.name)
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
	x.depth--
	x.name = local(x.name)
	return nil
}

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

func local(name []byte) []byte {
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		return name[i+1:]
	}
	return name
}

// attr returns the value of an attribute without prefix, nil if the tag has
// none. Entities are left as they are: sheets have none where it matters.
func (x *xmlScan) attr(name string) []byte {
	rest := x.attrs
	for {
		rest = bytes.TrimLeft(rest, " \t\r\n")
		eq := bytes.IndexByte(rest, '=')
		if eq < 0 {
			return nil
		}
		key := bytes.TrimRight(rest[:eq], " \t\r\n")
		rest = bytes.TrimLeft(rest[eq+1:], " \t\r\n")
		if len(rest) < 2 || rest[0] != '"' && rest[0] != '\'' {
			return nil
		}
		end := bytes.IndexByte(rest[1:], rest[0])
		if end < 0 {
			return nil
		}
		if string(key) == name {
			return rest[1 : 1+end]
		}
		rest = rest[end+2:]
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
