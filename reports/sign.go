package reports

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"keymill/pipeline"
)

// Signing is how a station signs its logs.
type Signing struct {
	Station string
	Signer  crypto.Signer // Ed25519, ECDSA or RSA, in a file or in an HSM
	Custody Custody       // of the signer
	// Heads is where each head is written before it is used; nil keeps none.
	Heads *Heads
	// Journal takes the heads into the ledger. Without one nothing new can be
	// signed: what is exported must have been signed before.
	Journal Journal
}

// SignLot signs the head of a lot's log at this station, if it has grown since
// the last one, and then the station log's, which holds it. It costs what the
// lot and the station log cost. A log that contradicts an earlier head of itself
// is a *RolledBackError or says that the ledger was changed.
func SignLot(ctx context.Context, src Source, lot string, s Signing) error {
	p, err := readLogs(ctx, src, lot, s)
	if err != nil {
		return err
	}
	for _, l := range p.lots {
		if l.log.Station != s.Station {
			continue
		}
		if err := l.read(ctx, src, nil); err != nil {
			return err
		}
	}
	return p.sign(ctx, src)
}

// SignFor signs the last head of a lot's log of another station, which is retired,
// in this station's log, with the reason: bundles say who signed for whom and why.
func SignFor(ctx context.Context, src Source, lot, station, reason string, s Signing) error {
	p, err := readLogs(ctx, src, lot, s)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(p.lots, func(l *bookLog) bool { return l.log.Station == station }) {
		return nil // it had no part in the lot
	}
	if err := p.introduce(ctx, src, p.ownStation()); err != nil {
		return err
	}
	for _, l := range p.lots {
		if l.log.Station != station || l.ended {
			continue
		}
		if err := l.read(ctx, src, nil); err != nil {
			return err
		}
		head := l.walk.head(l.log.Origin)
		if l.named == head {
			continue // it signed that itself, or somebody did for it
		}
		if err := p.signHead(ctx, l, true); err != nil {
			return err
		}
		facts := head.facts(pipeline.Attr{Name: "lot", Value: lot}, pipeline.Attr{Name: "for", Value: station}, pipeline.Attr{Name: "reason", Value: reason})
		if err := p.append(ctx, pipeline.Event{Action: actionLotHead, Facts: facts}); err != nil {
			return err
		}
	}
	return SignLot(ctx, src, lot, s)
}

// bookLog is one log of a lot on its way into a bundle.
type bookLog struct {
	log    Log
	walk   walk
	named  namedHead // the last head that a station log names, zero if none does
	signed []byte    // checkpoint of the log as it stands
	own    int64     // events of the lot
	ended  bool      // another epoch follows
	limit  int64     // of a station log of others: events that it has signed; -1 for none
	by     string    // another station, which signed for this one
}

// books are the logs of a lot as they are read and signed.
type books struct {
	signing  Signing
	lot      string
	stations []*stationBook
	lots     []*bookLog // lot logs by station and epoch
	legacy   []*bookLog
}

// stationBook is a station log, of which all leaves go into a bundle.
type stationBook struct {
	bookLog
	lines   [][]byte // canonical events
	keyID   string   // of the last audit key that it names
	frozen  map[string]namedHead
	adopted map[string]string // origins of lot logs that this station signed for another
}

// readLogs reads the station logs, which are small, and prepares the lot's logs
// to be read: each must agree with every head of it that was signed.
func readLogs(ctx context.Context, src Source, lot string, s Signing) (*books, error) {
	all, err := src.Logs(ctx, lot)
	if err != nil {
		return nil, fmt.Errorf("logs of lot %s: %w", lot, err)
	}
	p := &books{signing: s, lot: lot}
	ended := func(l Log) bool {
		return slices.ContainsFunc(all, func(o Log) bool { return o.Kind == l.Kind && o.Station == l.Station && o.Epoch > l.Epoch })
	}
	if !slices.ContainsFunc(all, func(l Log) bool { return l.Kind == pipeline.LogStation && l.Station == s.Station }) {
		all = append(all, Log{Kind: pipeline.LogStation, Station: s.Station, Epoch: 1, Origin: StationOrigin(s.Station, 1)})
	}
	for _, l := range all {
		if l.Kind != pipeline.LogStation {
			continue
		}
		b := &stationBook{bookLog: bookLog{log: l, walk: walk{name: logName(l)}, ended: ended(l), limit: -1}, frozen: map[string]namedHead{}, adopted: map[string]string{}}
		if err := p.recall(ctx, src, &b.bookLog); err != nil {
			return nil, err
		}
		p.stations = append(p.stations, b)
	}
	for _, l := range all {
		b := &bookLog{log: l, walk: walk{name: logName(l)}, ended: ended(l)}
		switch l.Kind {
		case pipeline.LogLot:
			p.lots = append(p.lots, b)
		case pipeline.LogLegacy:
			p.legacy = append(p.legacy, b)
			continue // it is checked as it is read, against what it holds itself
		default:
			continue
		}
		if err := p.recall(ctx, src, b); err != nil {
			return nil, err
		}
	}
	byStation := func(a, b *bookLog) int {
		if c := strings.Compare(a.log.Station, b.log.Station); c != 0 {
			return c
		}
		return a.log.Epoch - b.log.Epoch
	}
	slices.SortFunc(p.lots, byStation)
	slices.SortFunc(p.legacy, byStation)
	slices.SortFunc(p.stations, func(a, b *stationBook) int { return byStation(&a.bookLog, &b.bookLog) })
	for _, b := range p.stations {
		if err := p.readStation(ctx, src, b); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// recall notes the heads of a log that were signed: in the heads file for the
// station's own logs, in the ledger for all. Of an epoch that ended the next one
// says what was kept.
func (p *books) recall(ctx context.Context, src Source, b *bookLog) error {
	if b.ended {
		return nil
	}
	if b.log.Station == p.signing.Station {
		if size, root, ok := p.signing.Heads.Last(b.log.Origin); ok {
			if err := b.walk.want(namedHead{b.log.Origin, root, size}, "the head in "+p.signing.Heads.path); err != nil {
				return rolledBack(err, b, p.signing.Heads.path)
			}
		}
	}
	size, signed, err := src.Head(ctx, b.log.Origin)
	if b.log.Kind == pipeline.LogStation && b.log.Station != p.signing.Station {
		b.limit = size
	}
	if err != nil || signed == "" {
		return err
	}
	head, err := readHead(signed)
	if err != nil {
		return fmt.Errorf("the ledger's head of %s: %w", b.walk.name, err)
	}
	b.signed = []byte(signed)
	return rolledBack(b.walk.want(head, "the head that the ledger keeps"), b, "the ledger")
}

// rolledBack gives a fork its own type, so that whoever restores can act on it.
func rolledBack(err error, b *bookLog, where string) error {
	if fork, ok := errors.AsType[*forkError](err); ok {
		return &RolledBackError{Origin: b.log.Origin, Size: fork.size, Signed: fork.want.size, Path: where}
	}
	return err
}

// rolledBack is for the station's own logs, whose heads are in its file.
func (p *books) rolledBack(err error, b *bookLog) error {
	where := "the ledger"
	if p.signing.Heads != nil {
		where = p.signing.Heads.path
	}
	return rolledBack(err, b, where)
}

// readStation reads what a station log has that was not read yet.
func (p *books) readStation(ctx context.Context, src Source, b *stationBook) error {
	for e, err := range src.LogEvents(ctx, b.log, b.walk.tree.size) {
		if err != nil {
			return fmt.Errorf("%s: %w", b.walk.name, err)
		}
		if b.limit >= 0 && e.Seq > b.limit {
			break // its station has not signed that yet
		}
		if err := b.walk.stored(e); err != nil {
			return p.rolledBack(err, &b.bookLog)
		}
		line, err := parseEvent(e.Canonical)
		if err != nil {
			return err
		}
		b.lines = append(b.lines, e.Canonical)
		if err := p.stationLeaf(b, line); err != nil {
			return err
		}
	}
	return p.rolledBack(b.walk.done(), &b.bookLog)
}

// stationLeaf takes what a leaf of a station log says of the lot's logs.
func (p *books) stationLeaf(b *stationBook, e *eventLine) error {
	switch e.Action {
	case actionKey:
		b.keyID = e.fact("spki_sha256")
	case actionRotated:
		b.keyID = e.fact("new_spki_sha256")
	case actionFrozen:
		head, err := e.head()
		if err != nil {
			return err
		}
		b.frozen[head.Origin] = head
	case actionLotHead:
		if e.fact("lot") != p.lot {
			return nil
		}
		head, err := e.head()
		if err != nil {
			return err
		}
		for _, l := range p.lots {
			if l.log.Origin != head.Origin {
				continue
			}
			if l.named.Size <= head.Size {
				l.named = head
			}
			if station := e.fact("for"); station != "" {
				l.by = b.log.Station
			}
			return rolledBack(l.walk.want(head, fmt.Sprintf("event %d of %s", e.Seq, b.walk.name)), l, "the station log")
		}
		return fmt.Errorf("the ledger lacks the log %s, whose head event %d of %s names", head.Origin, e.Seq, b.walk.name)
	}
	return nil
}

// read reads a lot log as it stands. each is given the events; nil wants none.
func (b *bookLog) read(ctx context.Context, src Source, each func(pipeline.StoredEvent) error) error {
	if b.walk.tree.size > 0 {
		return nil
	}
	for e, err := range src.LogEvents(ctx, b.log, 0) {
		if err != nil {
			return fmt.Errorf("%s: %w", b.walk.name, err)
		}
		if e.Seq > b.log.Size {
			break // came while we read: the next head has it
		}
		if err := b.walk.stored(e); err != nil {
			return rolledBack(err, b, "the station log")
		}
		if each == nil {
			continue
		}
		if err := each(e); err != nil {
			return err
		}
	}
	b.own = b.walk.tree.size
	return rolledBack(b.walk.done(), b, "the station log")
}

// sign signs what has grown: lot logs first, so that the station log holds their
// heads, then the station log.
func (p *books) sign(ctx context.Context, src Source) error {
	own := p.ownStation()
	if err := p.introduce(ctx, src, own); err != nil {
		return err
	}
	for _, l := range p.lots {
		if err := p.signLot(ctx, l); err != nil {
			return err
		}
	}
	if err := p.readStation(ctx, src, own); err != nil {
		return err
	}
	for _, b := range p.stations {
		if err := p.signHead(ctx, &b.bookLog, b.log.Station == p.signing.Station && b == own); err != nil {
			return err
		}
	}
	return nil
}

// ownStation returns the last epoch of the signing station's log.
func (p *books) ownStation() *stationBook {
	var own *stationBook
	for _, b := range p.stations {
		if b.log.Station == p.signing.Station {
			own = b
		}
	}
	return own
}

// introduce has the station log say what the old logs were, if there are any, and
// which key signs it, before it does.
func (p *books) introduce(ctx context.Context, src Source, own *stationBook) error {
	id, err := KeyID(p.signing.Signer.Public())
	if err != nil || own.keyID == id {
		return err
	}
	if own.keyID != "" {
		return pipeline.WithHint(fmt.Errorf("station %s signs with key %.16s, not with %.16s", p.signing.Station, own.keyID, id),
			"to change the key, sign the change with both: keymill audit rotate")
	}
	if err := p.freeze(ctx, src, own); err != nil {
		return err
	}
	facts, err := p.signing.Custody.facts(p.signing.Signer.Public())
	if err != nil {
		return err
	}
	return p.append(ctx, pipeline.Event{Action: actionKey, Facts: facts})
}

// freeze names the head of every old log that no station log names yet. It reads
// them whole, once in a ledger's life.
func (p *books) freeze(ctx context.Context, src Source, own *stationBook) error {
	all, err := src.Logs(ctx, "")
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Kind != pipeline.LogLegacy || l.Size == 0 || p.frozen(l.Origin) {
			continue
		}
		b := &bookLog{log: l, walk: walk{name: logName(l)}}
		if err := b.read(ctx, src, nil); err != nil {
			return err
		}
		if err := p.append(ctx, pipeline.Event{Action: actionFrozen, Facts: b.walk.head(l.Origin).facts()}); err != nil {
			return err
		}
		if err := p.readStation(ctx, src, own); err != nil {
			return err
		}
	}
	return nil
}

func (p *books) frozen(origin string) bool {
	return slices.ContainsFunc(p.stations, func(b *stationBook) bool { _, ok := b.frozen[origin]; return ok })
}

func (p *books) append(ctx context.Context, e pipeline.Event) error {
	if p.signing.Journal == nil {
		return pipeline.WithHint(fmt.Errorf("lot %s has grown since its head was signed, and nothing may be written here", p.lot),
			"export it on the station, with its ledger")
	}
	e.Station = p.signing.Station
	_, err := p.signing.Journal.Append(ctx, e)
	return err
}

// signLot signs one lot log, if it is the station's own and has grown.
func (p *books) signLot(ctx context.Context, l *bookLog) error {
	if l.log.Station != p.signing.Station || l.walk.tree.size == 0 || l.ended {
		return nil
	}
	head := l.walk.head(l.log.Origin)
	if err := p.signHead(ctx, l, true); err != nil {
		return err
	}
	if l.named == head {
		return nil
	}
	l.named = head
	return p.append(ctx, pipeline.Event{Action: actionLotHead, Facts: head.facts(pipeline.Attr{Name: "lot", Value: p.lot})})
}

// signHead gives a log the checkpoint of its size: the one that is kept, or a new
// one where the log is the station's own.
func (p *books) signHead(ctx context.Context, b *bookLog, own bool) error {
	head := b.walk.head(b.log.Origin)
	text := LogHead{Origin: head.Origin, Size: head.Size, Root: head.Root}.text()
	if b.signed != nil && stripNote(b.signed) == text {
		if _, err := openCheckpoint(b.signed, []PublicKey{{Key: p.signing.Signer.Public()}}, nil); err == nil || !own {
			return nil
		}
	}
	if !own {
		return nil // its own station signs it
	}
	signed, err := LogHead{Origin: head.Origin, Size: head.Size, Root: head.Root}.sign(p.signing.Signer)
	if err != nil {
		return fmt.Errorf("sign the head of %s: %w", b.walk.name, err)
	}
	if err := p.signing.Heads.Append(signed); err != nil {
		return err
	}
	if p.signing.Journal != nil {
		if err := p.signing.Journal.SaveHead(ctx, head.Origin, head.Size, string(signed)); err != nil {
			return err
		}
	}
	b.signed = signed
	return nil
}

func sortedFacts(facts []pipeline.Attr) []pipeline.Attr {
	facts = slices.DeleteFunc(facts, func(a pipeline.Attr) bool { return a.Value == "" })
	slices.SortFunc(facts, func(a, b pipeline.Attr) int { return strings.Compare(a.Name, b.Name) })
	return facts
}

// SignStation signs the head of the station log as it stands.
func SignStation(ctx context.Context, src Source, s Signing) error {
	p, err := readLogs(ctx, src, "", s)
	if err != nil {
		return err
	}
	p.stations = slices.DeleteFunc(p.stations, func(b *stationBook) bool { return b.log.Station != s.Station })
	p.lots, p.legacy = nil, nil
	return p.sign(ctx, src)
}
