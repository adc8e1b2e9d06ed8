package reports

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"keymill/pipeline"
)

// contents checks the logs, replays the events, and compares the outcome with
// the listed devices.
func (v *verifier) contents(ctx context.Context) error {
	r := &replay{ctx: ctx, v: v, traces: v.shorts()}
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
	traces *traces
	events int
	// Of the second format.
	agree *agreement
	alone bool // one log has all events
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
			if r.tree.root() != w.root {
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
		case w.met || w.size == 0 && r.tree.size > 0 && (&frontier{}).root() == w.root:
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
	if e.Schema != eventSchema1 {
		return fmt.Errorf("an event of schema %.40q", e.Schema)
	}
	if e.Lot != p.Lot {
		return fmt.Errorf("an event of lot %q", e.Lot)
	}
	if e.Row == 0 {
		return r.facts(e)
	}
	return r.device(e)
}

// take replays one event of the second format, of the given log.
func (r *replay) take(e *eventLine, head LogHead) error {
	r.events++
	if err := r.agree.event(e, head, r.alone); err != nil {
		return err
	}
	if e.Row == 0 {
		return nil
	}
	return r.device(e)
}

// applies reports whether an event's device is in the state from which it goes.
func (r *replay) applies(e *eventLine) bool {
	if e.Row == 0 || e.To == "" {
		return true
	}
	t := r.traces.of(e.Row)
	if t == nil {
		return e.From == pipeline.Planned
	}
	return pipeline.States[t.state] == e.From
}

// device takes an event of a device to its trace.
func (r *replay) device(e *eventLine) error {
	t := r.traces.of(e.Row)
	if t == nil {
		var err error
		if t, err = r.traces.add(e.Row); err != nil {
			return err
		}
		t.identity = r.traces.shortSum(e.Device.Sum())
	}
	return r.step(t, e)
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

// step takes one event of a device to its trace.
func (r *replay) step(t *trace, e *eventLine) error {
	if t.identity != r.traces.shortSum(e.Device.Sum()) {
		return fmt.Errorf("row %d was another device before", e.Row)
	}
	if r.agree != nil {
		if err := r.agree.unit(t, e); err != nil {
			return err
		}
	}
	if e.To == "" {
		return nil // changes nothing
	}
	if e.From != pipeline.States[t.state] {
		return fmt.Errorf("row %d goes from %s, but it was %s: an event is missing", e.Row, e.From, pipeline.States[t.state])
	}
	state := slices.Index(pipeline.States, e.To)
	if state < 0 {
		return fmt.Errorf("row %d becomes %.40q, which is no state", e.Row, e.To)
	}
	if r.agree != nil {
		r.agree.moved(t, e)
	}
	t.state = uint8(state)
	switch e.Action {
	case pipeline.ActionStage:
		t.staged++
		t.marks &^= tracePreauthorized
		t.spki = r.traces.short([]byte(e.SPKISHA256))
		return checkSum(e.SPKISHA256)
	case pipeline.ActionDestroyKey:
		t.destroyed++
		return nil
	case pipeline.ActionPreauthorize:
		t.marks |= tracePreauthorized
		t.auth = r.traces.short(authText(e.ServerDeviceID, e.AuthSetID, e.RequestID, e.HTTPStatus))
	case pipeline.ActionRelease:
		if err := r.release(t, e); err != nil {
			return err
		}
	}
	if e.SPKISHA256 != "" && t.spki != r.traces.short([]byte(e.SPKISHA256)) {
		return fmt.Errorf("row %d: the key is another one than was staged", e.Row)
	}
	return nil
}

func (r *replay) release(t *trace, e *eventLine) error {
	if t.marks&tracePreauthorized == 0 || t.staged == 0 {
		return fmt.Errorf("row %d was released before its key was staged and preauthorized", e.Row)
	}
	if keys := r.v.st.Predicate.Keys; e.ReadBack != "match" && keys != pipeline.KeysInToken && keys != pipeline.KeysInManifest {
		return fmt.Errorf("row %d was released, but its image was not read back", e.Row)
	}
	t.output = r.traces.short(outputText(r.agree != nil, e.OutputName, e.OutputBytes, e.OutputSHA256))
	return checkSum(e.OutputSHA256)
}

// authText and outputText are what events and devices.jsonl both say of the
// server's answer and of the image.
func authText(device, set, request string, status int64) []byte {
	return fmt.Appendf(nil, "%q %q %q %d", device, set, request, status)
}

func outputText(whole bool, name string, bytes int64, sum string) []byte {
	if !whole {
		return []byte(sum) // all that the first format compares
	}
	return fmt.Appendf(nil, "%q %d %q", name, bytes, sum)
}

// checkSum checks that a text is a SHA-256 in hexadecimal, or empty.
func checkSum(s string) error {
	if sum, err := hex.DecodeString(s[:min(len(s), 2*sha256.Size+1)]); err != nil || len(sum) != sha256.Size && s != "" {
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
	l := &listing{replay: r}
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return l.finish()
		}
		if err != nil {
			return err
		}
		d, err := parseDevice(line, r.agree != nil)
		if err == nil {
			err = l.device(d)
		}
		if err != nil {
			return at(err, fileDevices, lines.number)
		}
	}
}
