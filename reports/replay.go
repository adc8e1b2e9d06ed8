package reports

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// contents checks the logs, replays the events, and compares the outcome with
// the listed devices.
func (v *verifier) contents(ctx context.Context) error {
	r := &replay{ctx: ctx, v: v, rows: map[int]*trace{}}
	if err := walkLogs(v.dir, v.st.Predicate.Logs, r); err != nil {
		return err
	}
	v.report.Events = r.events
	if r.events != v.st.Predicate.Events {
		return flawed(fileEvents, "has %d events, the statement says %d", r.events, v.st.Predicate.Events)
	}
	v.report.ok("the logs hold exactly the %d events that are listed, and all earlier checkpoints", r.events)
	if err := r.devices(); err != nil {
		return err
	}
	v.report.ok("the events lead to exactly the %d devices that are listed, and the totals are theirs", v.report.Devices)
	return nil
}

// replay carries every device through its events. It implements visitor.
type replay struct {
	ctx    context.Context
	v      *verifier
	tree   frontier
	wants  []want
	origin string
	rows   map[int]*trace
	events int
}

// trace is where a device's events leave it.
type trace struct {
	identity       pipeline.IdentitySum
	state          pipeline.State
	spki, output   [sha256.Size]byte
	staged         int // keys
	destroyed      int
	preauthorized  bool
	readBack, seen bool
}

func (r *replay) log(head LogHead) error {
	r.tree, r.wants, r.origin = frontier{}, r.v.wants[head.Origin], head.Origin
	return nil
}

func (r *replay) node(n node, e *eventLine, line []byte) error {
	if err := r.tree.add(n); err != nil {
		return err
	}
	for i := range r.wants {
		if w := &r.wants[i]; w.size == r.tree.size {
			if r.tree.root() != tlog.Hash(w.root) {
				return fmt.Errorf("the log of %d events is not the one that %s vouches for", w.size, w.what)
			}
			w.met = true
		}
	}
	if e == nil {
		return nil
	}
	r.events++
	if r.events%4096 == 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
	}
	return r.event(e)
}

func (r *replay) end(head LogHead) error {
	for _, w := range r.wants {
		switch {
		case w.met || w.size == 0 && r.tree.size > 0 && (&frontier{}).root() == tlog.Hash(w.root):
		case w.size > r.tree.size:
			return flawed(logFile(head.Station, nameNodes), "the log was rolled back: %s is of %d events, the log has %d", w.what, w.size, r.tree.size)
		default:
			return flawed(logFile(head.Station, nameNodes), "does not show the log as it was at %d events, so %s cannot be checked", w.size, w.what)
		}
	}
	return nil
}

func (r *replay) event(e *eventLine) error {
	p := r.v.st.Predicate
	if e.Schema != pipeline.EventSchema {
		return fmt.Errorf("an event of schema %.40q", e.Schema)
	}
	if e.Lot != p.Lot {
		return fmt.Errorf("an event of lot %q", e.Lot)
	}
	if e.Row == 0 {
		return r.facts(e)
	}
	t := r.rows[e.Row]
	if t == nil {
		t = &trace{state: pipeline.Planned, identity: e.Device.Sum()}
		r.rows[e.Row] = t
	}
	return t.step(e, p.Keys)
}

// facts checks that the lot was planned from the manifest and the golden image
// that the statement names.
func (r *replay) facts(e *eventLine) error {
	for fact, subject := range map[string]string{"manifest_sha256": "manifest", "golden_sha256": "golden"} {
		got := e.fact(fact)
		i := slices.IndexFunc(r.v.st.Subject, func(s statementSubject) bool { return s.Name == subject })
		if got != "" && i >= 0 && r.v.st.Subject[i].Digest["sha256"] != got {
			return fmt.Errorf("the %s was another one (%.16s..) than the statement names", subject, got)
		}
	}
	return nil
}

// step takes one event of the device.
func (t *trace) step(e *eventLine, keys string) error {
	if t.identity != e.Device.Sum() {
		return fmt.Errorf("row %d was another device before", e.Row)
	}
	if e.To == "" {
		return nil // changes nothing
	}
	if e.From != t.state {
		return fmt.Errorf("row %d goes from %s, but it was %s: an event is missing", e.Row, e.From, t.state)
	}
	t.state = e.To
	switch e.Action {
	case pipeline.ActionStage:
		t.staged++
		t.preauthorized, t.readBack = false, false
		return decodeSum(&t.spki, e.SPKISHA256)
	case pipeline.ActionDestroyKey:
		t.destroyed++
		return nil
	case pipeline.ActionPreauthorize:
		t.preauthorized = true
	case pipeline.ActionRelease:
		if !t.preauthorized || t.staged == 0 {
			return fmt.Errorf("row %d was released before its key was staged and preauthorized", e.Row)
		}
		if e.ReadBack != "match" && keys != pipeline.KeysInToken {
			return fmt.Errorf("row %d was released, but its image was not read back", e.Row)
		}
		if err := decodeSum(&t.output, e.OutputSHA256); err != nil {
			return err
		}
	}
	if e.SPKISHA256 != "" && hex.EncodeToString(t.spki[:]) != e.SPKISHA256 {
		return fmt.Errorf("row %d: the key is another one than was staged", e.Row)
	}
	return nil
}

func decodeSum(dst *[sha256.Size]byte, s string) error {
	*dst = [sha256.Size]byte{}
	if s == "" {
		return nil
	}
	if n, err := hex.Decode(dst[:], []byte(s[:min(len(s), 2*sha256.Size)])); err != nil || n != len(dst) || len(s) != 2*n {
		return fmt.Errorf("%.70q is not a SHA-256", s)
	}
	return nil
}

func identitySum(m map[string]string) pipeline.IdentitySum {
	id := make(pipeline.Identity, 0, len(m))
	for name, value := range m {
		id = append(id, pipeline.Attr{Name: name, Value: value})
	}
	return id.Sum()
}

// devices compares devices.jsonl with the traces and the totals.
func (r *replay) devices() error {
	lines, err := openLines(r.v.dir, fileDevices)
	if err != nil {
		return err
	}
	defer lines.close()
	l := &listing{replay: r, identities: map[pipeline.IdentitySum]int{}, keys: map[[sha256.Size]byte]int{}}
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return l.finish()
		}
		if err != nil {
			return err
		}
		var d deviceLine
		if err := json.Unmarshal(line, &d); err != nil {
			return flawed(fileDevices, "line %d: %v", lines.number, err)
		}
		if err := l.device(&d); err != nil {
			return at(err, fileDevices, lines.number)
		}
	}
}
