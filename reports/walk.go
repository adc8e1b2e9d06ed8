package reports

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"keymill/pipeline"
)

// A flaw is something wrong with the evidence, as opposed to an error in
// reading it.
type flaw struct {
	file string
	text string
}

func (f *flaw) Error() string { return f.file + ": " + f.text }

func flawed(file, format string, args ...any) error { return &flaw{file, fmt.Sprintf(format, args...)} }

// maxLine bounds a line of foreign text.
const maxLine = 1 << 20

// lineReader reads a file of lines that each end in a line feed.
type lineReader struct {
	name   string
	file   *os.File
	in     *bufio.Reader
	number int
	long   []byte
}

func openLines(dir, name string) (*lineReader, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, flawed(name, "is missing")
	}
	if err != nil {
		return nil, err
	}
	return &lineReader{name: name, file: f, in: bufio.NewReaderSize(f, 64<<10)}, nil
}

func (r *lineReader) close() { _ = r.file.Close() }

// next returns a line without its end, valid until the next call, and io.EOF
// after the last.
func (r *lineReader) next() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		r.long = append(r.long[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) && len(r.long) < maxLine {
			line, err = r.in.ReadSlice('\n')
			r.long = append(r.long, line...)
		}
		line = r.long
	}
	r.number++
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, flawed(r.name, "line %d is cut off", r.number)
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, flawed(r.name, "line %d is longer than %d bytes", r.number, maxLine)
	case err != nil:
		return nil, err
	}
	return line[:len(line)-1], nil
}

// nodeReader reads a log's nodes file.
type nodeReader struct {
	lines *lineReader
	node  node
	more  bool
}

func (r *nodeReader) advance() error {
	line, err := r.lines.next()
	if errors.Is(err, io.EOF) {
		r.more = false
		return nil
	}
	if err != nil {
		return err
	}
	if r.node, err = parseNode(string(line)); err != nil {
		return flawed(r.lines.name, "line %d: %v", r.lines.number, err)
	}
	r.more = true
	return nil
}

// parseNode reads "START LEVEL HASH"; only the form that writeNodes gives is
// accepted.
func parseNode(line string) (node, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 {
		return node{}, errors.New("not three fields")
	}
	start, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || start < 0 || strconv.FormatInt(start, 10) != fields[0] {
		return node{}, fmt.Errorf("a subtree cannot start at %.20q", fields[0])
	}
	level, err := strconv.Atoi(fields[1])
	if err != nil || level < 0 || level > 62 || strconv.Itoa(level) != fields[1] {
		return node{}, fmt.Errorf("a subtree cannot have level %.20q", fields[1])
	}
	n := node{start: start, level: level}
	hash, err := base64.StdEncoding.Strict().DecodeString(fields[2])
	if err != nil || copy(n.hash[:], hash) != len(n.hash) || len(hash) != len(n.hash) {
		return node{}, errors.New("not a hash of 32 bytes in base64")
	}
	return n, nil
}

// eventReader reads events.jsonl.
type eventReader struct {
	lines *lineReader
	line  []byte
	event *eventLine
	more  bool
}

func (r *eventReader) advance() error {
	line, err := r.lines.next()
	if errors.Is(err, io.EOF) {
		r.more = false
		return nil
	}
	if err != nil {
		return err
	}
	if r.event, err = parseEvent(line); err != nil {
		return flawed(r.lines.name, "line %d: %v", r.lines.number, err)
	}
	r.line, r.more = line, true
	return nil
}

// visitor is told a bundle's logs from left to right: every node, and for the
// lot's own leaves the event.
type visitor interface {
	log(head LogHead) error // a log begins
	node(n node, e *eventLine, line []byte) error
	end(head LogHead) error // it is complete
}

// walkLogs reads events.jsonl and the nodes of each log side by side: together
// they are the whole log of each station.
func walkLogs(dir string, heads []LogHead, v visitor) error {
	lines, err := openLines(dir, fileEvents)
	if err != nil {
		return err
	}
	defer lines.close()
	events := &eventReader{lines: lines}
	if err := events.advance(); err != nil {
		return err
	}
	for _, head := range heads {
		if err := walkLog(dir, head, events, v); err != nil {
			return err
		}
	}
	if events.more {
		return flawed(fileEvents, "line %d: event %d of station %q is in no log that the statement names",
			lines.number, events.event.Seq, events.event.Station)
	}
	return nil
}

func walkLog(dir string, head LogHead, events *eventReader, v visitor) error {
	lines, err := openLines(dir, logFile(head.Station, nameNodes))
	if err != nil {
		return err
	}
	defer lines.close()
	nodes := &nodeReader{lines: lines}
	if err := nodes.advance(); err != nil {
		return err
	}
	if err := v.log(head); err != nil {
		return err
	}
	for {
		own := events.more && events.event.Station == head.Station
		switch {
		case own && (!nodes.more || events.event.Seq <= nodes.node.start):
			leaf := node{start: events.event.Seq - 1, hash: pipeline.LeafHash(events.line)}
			if err := v.node(leaf, events.event, events.line); err != nil {
				return at(err, fileEvents, events.lines.number)
			}
			err = events.advance()
		case nodes.more:
			if err := v.node(nodes.node, nil, nil); err != nil {
				return at(err, lines.name, lines.number)
			}
			err = nodes.advance()
		default:
			return v.end(head)
		}
		if err != nil {
			return err
		}
	}
}

// at says in which line a plain error of a visitor lies.
func at(err error, file string, line int) error {
	if _, ok := errors.AsType[*flaw](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return flawed(file, "line %d: %v", line, err)
}
