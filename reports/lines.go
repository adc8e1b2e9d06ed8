package reports

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// Schemas of events: of the first format's logs, and of all others.
const (
	eventSchema1 = "keymill.event/1"
	eventSchema2 = "keymill.event/2"
)

// lines follows the lot's logs, replays the events in the order of their times,
// and compares the outcome with the listed devices.
func (v *verifier) lines(ctx context.Context) error {
	r := &replay{ctx: ctx, v: v, traces: v.shorts(), agree: newAgreement(v)}
	logs := 0
	for _, h := range v.st.Predicate.Logs {
		if h.Kind != KindStation && h.Events > 0 {
			logs++
		}
	}
	r.alone = logs == 1
	sections, err := v.follow(ctx, r)
	if err != nil {
		return err
	}
	for _, h := range v.st.Predicate.Logs {
		if w, ok := v.view.walks[h.Origin]; ok {
			if err := v.finished(w, h.Origin); err != nil {
				return err
			}
		}
	}
	if !r.alone {
		if err := v.merge(ctx, sections, r); err != nil {
			return err
		}
	}
	v.report.Events = r.events
	v.report.ok("the logs hold exactly the %d events that are listed, and all earlier checkpoints", r.events)
	if err := r.agree.finish(r); err != nil {
		return err
	}
	if err := r.devices(); err != nil {
		return err
	}
	if err := r.agree.listed(); err != nil {
		return err
	}
	v.report.ok("the events lead to exactly the %d devices that are listed, and the totals are theirs", v.report.Devices)
	return nil
}

// section is one log's part of events.jsonl.
type section struct {
	head   LogHead
	offset int64 // bytes
}

// follow computes the trees of the lot's logs, one after the other as they are
// listed. Where there is only one, its events are replayed on the way.
func (v *verifier) follow(ctx context.Context, r *replay) ([]section, error) {
	lines, err := openLines(v.dir, fileEvents)
	if err != nil {
		return nil, err
	}
	defer lines.close()
	var sections []section
	for _, head := range v.st.Predicate.Logs {
		if head.Kind == KindStation {
			continue
		}
		sections = append(sections, section{head, lines.offset})
		log := &logLines{v: v, r: r, ctx: ctx, head: head, walk: v.view.walks[head.Origin], lines: lines}
		if err := log.run(); err != nil {
			return nil, err
		}
	}
	if _, err := lines.next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = flawed(fileEvents, "line %d is in no log that the statement names", lines.number)
		}
		return nil, err
	}
	return sections, nil
}

// logLines follows one log.
type logLines struct {
	v     *verifier
	r     *replay
	ctx   context.Context
	head  LogHead
	walk  *walk
	lines *lineReader
	nodes *parsedLines[node] // of an old log
}

func (l *logLines) run() error {
	if l.head.Kind == KindLegacy {
		var err error
		if l.nodes, err = openParsed(l.v.dir, folderOf(l.head)+"/"+nameNodes, parseNode); err != nil {
			return err
		}
		defer l.nodes.close()
	}
	for i := range l.head.Events {
		line, err := l.lines.next()
		if errors.Is(err, io.EOF) {
			return flawed(fileEvents, "ends before event %d of the log %s", i+1, l.head.Origin)
		}
		if err != nil {
			return err
		}
		if err := l.event(line); err != nil {
			return at(err, fileEvents, l.lines.number)
		}
		if l.lines.number%4096 == 0 && l.ctx.Err() != nil {
			return l.ctx.Err()
		}
	}
	return l.skip(l.head.Size)
}

func (l *logLines) event(line []byte) error {
	e, err := parseEvent(line)
	if err != nil {
		return err
	}
	if l.nodes != nil {
		if err := l.skip(e.Seq - 1); err != nil {
			return err
		}
	}
	if err := l.walk.follows(e, l.head); err != nil {
		return err
	}
	if e.Lot != l.v.st.Predicate.Lot {
		return fmt.Errorf("an event of lot %q", e.Lot)
	}
	if err := l.walk.leaf(tlog.Hash(pipeline.LeafHash(line))); err != nil {
		return err
	}
	l.v.stats.add(e)
	if e.Time.After(l.v.last) {
		l.v.last = e.Time
	}
	if !l.r.alone {
		return nil
	}
	return l.r.take(e, l.head)
}

// skip takes the subtrees of an old log up to a leaf.
func (l *logLines) skip(to int64) error {
	for l.nodes != nil && l.nodes.more && l.walk.tree.size < to {
		if err := l.walk.node(l.nodes.value); err != nil {
			return at(err, l.nodes.lines.name, l.nodes.lines.number)
		}
		if err := l.nodes.advance(); err != nil {
			return err
		}
	}
	if to == l.head.Size && l.nodes != nil && l.nodes.more {
		return flawed(l.nodes.lines.name, "has more than the log's %d events", l.head.Size)
	}
	return nil
}

// source is one log's events, one ahead.
type source struct {
	section
	lines *lineReader
	left  int64
	event *eventLine // nil at the end
}

func (s *source) advance() error {
	s.event = nil
	if s.left == 0 {
		return nil
	}
	s.left--
	line, err := s.lines.next()
	if err != nil {
		return err
	}
	s.event, err = parseEvent(line)
	return err
}

// merge replays the events of several logs in the order of their times. Clocks of
// stations differ: an event waits for another log as long as its device is not in
// the state from which it goes.
func (v *verifier) merge(ctx context.Context, sections []section, r *replay) error {
	var sources []*source
	for _, one := range sections {
		lines, err := openLines(v.dir, fileEvents)
		if err != nil {
			return err
		}
		defer lines.close()
		if err := lines.seek(one.offset); err != nil {
			return err
		}
		s := &source{section: one, lines: lines, left: one.head.Events}
		if err := s.advance(); err != nil {
			return err
		}
		sources = append(sources, s)
	}
	for {
		if r.events%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		next := earliest(sources, func(s *source) bool { return r.applies(s.event) })
		if next == nil {
			next = earliest(sources, func(*source) bool { return true })
		}
		if next == nil {
			return nil
		}
		if err := r.take(next.event, next.head); err != nil {
			return at(err, fileEvents, 0)
		}
		if err := next.advance(); err != nil {
			return err
		}
	}
}

// earliest returns the source with the earliest event that fits, nil if none does.
func earliest(sources []*source, fits func(*source) bool) *source {
	var first *source
	for _, s := range sources {
		if s.event != nil && (first == nil || s.event.Time.Before(first.event.Time)) && fits(s) {
			first = s
		}
	}
	return first
}
