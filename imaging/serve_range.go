package imaging

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// asked is what a request asks for, before it is answered. It may be more than what
// is sent in the end, never less.
type asked []Span

// askedFor reads Range, If-Range and If-None-Match (RFC 9110, sections 13 and 14) for
// an image of size bytes. What cannot be read asks for all.
func askedFor(r *http.Request, etag string, size int64) asked {
	whole := asked{{0, size}}
	quoted := `"` + etag + `"`
	if r.Method != http.MethodGet {
		return nil
	}
	if none := r.Header.Get("If-None-Match"); none == quoted {
		return nil // it has the image
	}
	header, isRange := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if cond := r.Header.Get("If-Range"); !isRange || cond != "" && cond != quoted {
		return whole
	}
	var out asked
	for part := range strings.SplitSeq(header, ",") {
		first, last, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			return whole
		}
		from, errFrom := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
		to, errTo := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
		switch {
		case first == "" && errTo == nil && to >= 0:
			from = max(0, size-to)
			to = size - 1
		case errFrom == nil && from >= 0 && last == "":
			to = size - 1
		case errFrom != nil || errTo != nil || from < 0 || to < from:
			return whole
		}
		if to = min(to, size-1); from <= to {
			out = append(out, Span{from, to - from + 1})
		}
	}
	var total int64
	for _, s := range out {
		total += s.Length
	}
	if total > size {
		return whole // what net/http answers with all of it
	}
	return out
}

func (a asked) touches(own []Span) bool {
	return slices.ContainsFunc(a, func(s Span) bool { return len(within(own, s.Offset, s.Offset+s.Length)) > 0 })
}

// from returns the first byte that is asked for.
func (a asked) from() int64 {
	first := a[0].Offset
	for _, s := range a {
		first = min(first, s.Offset)
	}
	return first
}

// servedImage is an image on its way to a client. It gives the device's own bytes out
// only if that was allowed, and notes what was read of it.
type servedImage struct {
	*Reader
	own     []Span
	allowed bool
	read    []Span
}

// errNotBound says that bytes would leave that are bound to no unit.
var errNotBound = errors.New("these bytes are bound to no unit")

func (s *servedImage) ReadAt(p []byte, off int64) (int, error) {
	if !s.allowed && len(within(s.own, off, off+int64(len(p)))) > 0 {
		return 0, errNotBound
	}
	n, err := s.Reader.ReadAt(p, off)
	if last := len(s.read) - 1; last >= 0 && s.read[last].Offset+s.read[last].Length == off {
		s.read[last].Length += int64(n)
	} else {
		s.read = append(s.read, Span{off, int64(n)})
	}
	return n, err
}

func (s *servedImage) seeker() io.ReadSeeker { return io.NewSectionReader(s, 0, s.size) }

// serveBuffer is what io.Copy may have read and not sent when a client goes.
const serveBuffer = 64 << 10

// sent returns what went out; of a transfer that broke, less than what was read.
func (s *servedImage) sent(broke bool) []Span {
	out := slices.Clone(s.read)
	if last := len(out) - 1; broke && last >= 0 {
		out[last].Length = max(0, out[last].Length-serveBuffer)
	}
	return joinSpans(out)
}

// countedWriter counts what was sent, and notes that sending failed.
type countedWriter struct {
	http.ResponseWriter
	status int
	n      int64
	err    error
}

func (w *countedWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	if err != nil {
		w.err = err
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Covers reports whether spans cover the first size bytes.
func Covers(spans []Span, size int64) bool {
	joined := joinSpans(spans)
	return len(joined) == 1 && joined[0].Offset <= 0 && joined[0].Offset+joined[0].Length >= size
}
