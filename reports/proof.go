package reports

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// Proof shows that one event is in a station's log. It is stored in the form
// of C2SP tlog-proof (extension .tlog-proof); the event itself is the extra
// data, whose hash the proof is about.
type Proof struct {
	Index      int64  // of the leaf, from 0
	Event      []byte // canonical JSON
	Hashes     tlog.RecordProof
	Checkpoint []byte // signed note, with its cosignatures
}

const (
	proofHeader = "c2sp.org/tlog-proof@v1\n"
	maxProof    = 1 << 20 // bytes; a proof is a few KiB
)

// Marshal returns the proof as a .tlog-proof file.
func (p *Proof) Marshal() []byte {
	var b bytes.Buffer
	b.WriteString(proofHeader)
	if len(p.Event) > 0 {
		b.WriteString("extra " + base64.StdEncoding.EncodeToString(p.Event) + "\n")
	}
	fmt.Fprintf(&b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		b.WriteString(h.String() + "\n")
	}
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return b.Bytes()
}

// ParseProof reads a .tlog-proof file. It checks the form, nothing else.
func ParseProof(data []byte) (*Proof, error) {
	if len(data) > maxProof {
		return nil, fmt.Errorf("a proof of %d bytes is none", len(data))
	}
	text, ok := strings.CutPrefix(string(data), proofHeader)
	if !ok {
		return nil, errors.New("the first line is not c2sp.org/tlog-proof@v1")
	}
	head, checkpoint, ok := strings.Cut(text, "\n\n")
	if !ok || checkpoint == "" {
		return nil, errors.New("there is no checkpoint")
	}
	p := &Proof{Checkpoint: []byte(checkpoint)}
	lines := strings.Split(head, "\n")
	if extra, ok := strings.CutPrefix(lines[0], "extra "); ok {
		var err error
		if p.Event, err = base64.StdEncoding.Strict().DecodeString(extra); err != nil {
			return nil, errors.New("the extra data is not base64")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return nil, errors.New("there is no index")
	}
	index, ok := strings.CutPrefix(lines[0], "index ")
	var err error
	if p.Index, err = strconv.ParseInt(index, 10, 64); !ok || err != nil || p.Index < 0 || strconv.FormatInt(p.Index, 10) != index {
		return nil, fmt.Errorf("the index cannot be %.40q", lines[0])
	}
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line || len(p.Hashes) == 64 {
			return nil, fmt.Errorf("not a hash: %.60q", line)
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}

func errNotReleased(row int) error {
	return pipeline.WithHint(fmt.Errorf("no event says that the device of row %d was released", row),
		"only released devices can be proved; look at the lot's status")
}

// ProveFromBundle makes the proof from a bundle's files; device is any of its
// identity's values, or its serial. It needs no key: the bundle's checkpoint is
// used, with its cosignatures if it has any.
func ProveFromBundle(ctx context.Context, dir, device string) (*Proof, error) {
	row, err := findRow(dir, device)
	if err != nil {
		return nil, err
	}
	heads, err := bundleHeads(dir)
	if err != nil {
		return nil, err
	}
	find := &finder{ctx: ctx, row: row}
	if err := walkLogs(dir, heads, find); err != nil {
		return nil, err
	}
	if find.event == nil {
		return nil, errNotReleased(row)
	}
	path, err := newInclusion(find.index, find.found.Size)
	if err != nil {
		return nil, err
	}
	gather := &gatherer{head: find.found, path: path}
	if err := walkLogs(dir, heads, gather); err != nil {
		return nil, err
	}
	p := &Proof{Index: find.index, Event: find.event}
	if p.Hashes, err = path.proof(); err != nil {
		return nil, err
	}
	for _, name := range []string{nameCosigned, nameCheckpoint} {
		p.Checkpoint, err = os.ReadFile(filepath.Join(dir, filepath.FromSlash(logFile(find.found.Station, name))))
		if err == nil {
			break
		}
	}
	return p, err
}

// finder looks for the last release of a row. It implements visitor.
type finder struct {
	ctx     context.Context
	row     int
	current LogHead
	found   LogHead
	index   int64
	event   []byte
}

func (f *finder) log(head LogHead) error { f.current = head; return f.ctx.Err() }
func (f *finder) end(LogHead) error      { return nil }

func (f *finder) node(n node, e *eventLine, line []byte) error {
	if e != nil && e.Row == f.row && e.Action == pipeline.ActionRelease {
		f.found, f.index, f.event = f.current, n.start, bytes.Clone(line)
	}
	return nil
}

// gatherer collects the inclusion proof from one log. It implements visitor.
type gatherer struct {
	head LogHead
	path *inclusion
	on   bool
}

func (g *gatherer) log(head LogHead) error { g.on = head == g.head; return nil }
func (g *gatherer) end(LogHead) error      { return nil }

func (g *gatherer) node(n node, _ *eventLine, _ []byte) error {
	if !g.on {
		return nil
	}
	return g.path.add(n)
}
