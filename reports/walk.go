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
	offset int64 // bytes read
	long   []byte
}

func openLines(dir, name string) (*lineReader, error) {
	f, _, err := openRegular(filepath.Join(dir, filepath.FromSlash(name)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, flawed(name, "is missing")
	}
	if odd, ok := errors.AsType[*notRegularError](err); ok {
		return nil, flawed(name, "%v", odd)
	}
	if err != nil {
		return nil, err
	}
	return &lineReader{name: name, file: f, in: bufio.NewReaderSize(f, 64<<10)}, nil
}

// seek goes to a byte at which a line begins.
func (r *lineReader) seek(offset int64) error {
	_, err := r.file.Seek(offset, io.SeekStart)
	r.in.Reset(r.file)
	r.offset = offset
	return err
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
	r.offset += int64(len(line))
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

// parsedLines reads a file of lines one line ahead.
type parsedLines[T any] struct {
	lines *lineReader
	parse func(line []byte) (T, error)

	line  []byte // ahead, with what it says
	value T
	more  bool // false at the end
}

// openParsed opens a file and reads its first line.
func openParsed[T any](dir, name string, parse func(line []byte) (T, error)) (*parsedLines[T], error) {
	lines, err := openLines(dir, name)
	if err != nil {
		return nil, err
	}
	r := &parsedLines[T]{lines: lines, parse: parse}
	if err := r.advance(); err != nil {
		lines.close()
		return nil, err
	}
	return r, nil
}

func (r *parsedLines[T]) close() { r.lines.close() }

func (r *parsedLines[T]) advance() (err error) {
	r.line, err = r.lines.next()
	if errors.Is(err, io.EOF) {
		r.more = false
		return nil
	}
	if err != nil {
		return err
	}
	if r.value, err = r.parse(r.line); err != nil {
		return flawed(r.lines.name, "line %d: %v", r.lines.number, err)
	}
	r.more = true
	return nil
}

// parseNode reads "START LEVEL HASH"; only the form that writeNodes gives is
// accepted.
func parseNode(line []byte) (node, error) {
	fields := strings.Split(string(line), " ")
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
	events, err := openParsed(dir, fileEvents, parseEvent)
	if err != nil {
		return err
	}
	defer events.close()
	for _, head := range heads {
		if err := walkLog(dir, head, events, v); err != nil {
			return err
		}
	}
	if events.more {
		return flawed(fileEvents, "line %d: event %d of station %q is in no log that the statement names",
			events.lines.number, events.value.Seq, events.value.Station)
	}
	return nil
}

func walkLog(dir string, head LogHead, events *parsedLines[*eventLine], v visitor) error {
	nodes, err := openParsed(dir, logFile(head.Station, nameNodes), parseNode)
	if err != nil {
		return err
	}
	defer nodes.close()
	if err := v.log(head); err != nil {
		return err
	}
	for {
		own := events.more && events.value.Station == head.Station
		switch {
		case own && (!nodes.more || events.value.Seq <= nodes.value.start):
			leaf := node{start: events.value.Seq - 1, hash: pipeline.LeafHash(events.line)}
			if err := v.node(leaf, events.value, events.line); err != nil {
				return at(err, fileEvents, events.lines.number)
			}
			err = events.advance()
		case nodes.more:
			if err := v.node(nodes.value, nil, nil); err != nil {
				return at(err, nodes.lines.name, nodes.lines.number)
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
	if fork, ok := errors.AsType[*forkError](err); ok {
		return flawed(file, "%v", fork)
	}
	if _, ok := errors.AsType[*flaw](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if line == 0 {
		return flawed(file, "%v", err)
	}
	return flawed(file, "line %d: %v", line, err)
}
