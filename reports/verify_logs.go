package reports

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// view is what the logs of a bundle of the second format say.
type view struct {
	stations []*stationView
	walks    map[string]*walk // by origin, of the lot's logs
	named    map[string]namedHead
	frozen   map[string]namedHead
	adopted  map[string]adoption  // by origin of a lot log: who signed for its station
	previous map[string]namedHead // by origin of an epoch: what its log-restarted event says was kept
	since    []namedHead          // earlier checkpoints of station logs
	lost     []string             // what epochs lost, in words
	closed   time.Time            // of the lot-head that came last
}

// adoption is a head that one station signed for another.
type adoption struct{ by, reason string }

// stationView is one verified station log.
type stationView struct {
	head LogHead
	walk walk
	key  *eventLine // the last audit-key or key-rotated event
}

// logs checks the station logs first, which say what the lot's logs must be.
func (v *verifier) logs(ctx context.Context) error {
	v.view = view{walks: map[string]*walk{}, named: map[string]namedHead{}, frozen: map[string]namedHead{},
		adopted: map[string]adoption{}, previous: map[string]namedHead{}}
	if err := v.listedLogs(); err != nil {
		return err
	}
	if err := v.prescan(ctx); err != nil {
		return err
	}
	if err := v.since(); err != nil {
		return err
	}
	for _, head := range v.st.Predicate.Logs {
		if head.Kind != KindStation {
			continue
		}
		if err := v.stationLog(ctx, head); err != nil {
			return err
		}
	}
	for _, s := range v.view.stations {
		if err := v.finished(&s.walk, s.head.Origin); err != nil {
			return err
		}
	}
	return v.checkpointsOfLots()
}

// listedLogs checks the list of logs in the statement.
func (v *verifier) listedLogs() error {
	p, events := v.st.Predicate, int64(0)
	seen := map[string]bool{}
	station := false
	for _, h := range p.Logs {
		if h.Kind != KindStation && h.Kind != KindLot && h.Kind != KindLegacy || h.Origin != h.origin(p.Lot) {
			return flawed(fileStatement, "the %s log of station %q cannot be %s", h.Kind, h.Station, h.Origin)
		}
		if seen[h.Origin] || (h.Epoch < 1) != (h.Kind == KindLegacy) {
			return flawed(fileStatement, "the log %s is listed in a way that cannot be", h.Origin)
		}
		seen[h.Origin] = true
		station = station || h.Kind == KindStation && h.Station == p.Station
		if h.Kind == KindStation && h.Events != 0 || h.Kind == KindLot && h.Events != h.Size || h.Events < 0 || h.Events > h.Size {
			return flawed(fileStatement, "the log %s of %d events cannot have %d in events.jsonl", h.Origin, h.Size, h.Events)
		}
		if h.SignedBy != "" && h.Kind != KindLot {
			return flawed(fileStatement, "nobody signs the log %s for another", h.Origin)
		}
		events += h.Events
		if h.Kind == KindStation {
			continue
		}
		w := &walk{name: h.Origin}
		v.view.walks[h.Origin] = w
		if err := w.want(h.named(), "the statement"); err != nil {
			return err
		}
	}
	switch {
	case events != int64(p.Events):
		return flawed(fileStatement, "says %d events, but its logs have %d", p.Events, events)
	case !station:
		return flawed(fileStatement, "lists no log of the exporting station %q", p.Station)
	}
	return nil
}

func (h LogHead) named() namedHead { return namedHead{h.Origin, h.Root, h.Size} }

// prescan takes from events.jsonl what must be known before its logs are
// followed: heads that later events name.
func (v *verifier) prescan(ctx context.Context) error {
	lines, err := openLines(v.dir, fileEvents)
	if err != nil {
		return err
	}
	defer lines.close()
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if lines.number%65536 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if !bytes.HasPrefix(line, []byte(`{"action":"lo`)) { // lot-closed, log-..
			continue
		}
		e, err := parseEvent(line)
		if err == nil {
			err = v.namesHeads(e)
		}
		if err != nil {
			return at(err, fileEvents, lines.number)
		}
	}
}

// namesHeads takes the heads that an event of the lot names.
func (v *verifier) namesHeads(e *eventLine) error {
	var heads []namedHead
	var err error
	switch e.Action {
	case pipeline.ActionClose:
		heads, err = e.heads()
	case actionContinued, actionRestarted:
		heads, err = v.begins(e)
	}
	if err != nil {
		return err
	}
	for _, h := range heads {
		w, ok := v.view.walks[h.Origin]
		if !ok {
			return fmt.Errorf("names the log %s, which the bundle does not have", h.Origin)
		}
		if err := w.want(h, fmt.Sprintf("the event %s of station %s", e.Action, e.Station)); err != nil {
			return err
		}
	}
	return nil
}

// begins takes the event with which a log goes on where another one ended.
func (v *verifier) begins(e *eventLine) ([]namedHead, error) {
	head, err := e.head()
	if err != nil || e.Action == actionContinued {
		return []namedHead{head}, err
	}
	kept, err := e.kept(head)
	if err != nil {
		return nil, err
	}
	v.view.previous[head.Origin] = kept
	if kept != head {
		v.view.lost = append(v.view.lost, fmt.Sprintf("events %d to %d of the log %s were lost when an older ledger was put back", kept.Size+1, head.Size, head.Origin))
	}
	return []namedHead{kept}, nil
}

// kept returns the head of what was left of a log that was restarted: the log's
// first kept_size events. Without such facts nothing was lost.
func (e *eventLine) kept(head namedHead) (namedHead, error) {
	if e.fact("kept_size") == "" {
		return head, nil
	}
	size, err := parseSize(e.fact("kept_size"))
	if err != nil || size > head.Size {
		return head, fmt.Errorf("event %d (%s) keeps what cannot be", e.Seq, e.Action)
	}
	root := e.fact("kept_root")
	_, err = parseRoot(root)
	return namedHead{head.Origin, root, size}, err
}

// stationLog follows one station log.
func (v *verifier) stationLog(ctx context.Context, head LogHead) error {
	s := &stationView{head: head, walk: walk{name: head.Origin}}
	v.view.stations = append(v.view.stations, s)
	if err := s.walk.want(head.named(), "the statement"); err != nil {
		return err
	}
	for _, one := range v.view.since {
		if one.Origin == head.Origin {
			if err := s.walk.want(one, earlier); err != nil {
				return err
			}
		}
	}
	name := folderOf(head) + "/" + nameLeaves
	lines, err := openLines(v.dir, name)
	if err != nil {
		return err
	}
	defer lines.close()
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			if err = v.stationLeaf(s, line); err != nil {
				err = at(err, name, lines.number)
			}
		}
		if err == nil && lines.number%4096 == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	if s.walk.tree.size != head.Size {
		return flawed(name, "has %d leaves, the statement says %d", s.walk.tree.size, head.Size)
	}
	return v.stationHead(s)
}

func (v *verifier) stationLeaf(s *stationView, line []byte) error {
	e, err := parseEvent(line)
	if err != nil {
		return err
	}
	if err := s.walk.follows(e, s.head); err != nil {
		return err
	}
	if e.Lot != "" || e.Row != 0 || len(e.Device) > 0 || e.From != "" || e.To != "" {
		return fmt.Errorf("an event of lot %q in a station log", e.Lot)
	}
	switch e.Action {
	case actionKey:
		err = e.checkKey()
		s.key = e
	case actionRotated:
		if err = checkRotation(e); err == nil && s.key != nil && s.key.newKey() != e.fact("old_spki_sha256") {
			err = errors.New("a rotation of another key than the one that signed until then")
		}
		s.key = e
	case actionRestarted:
		_, err = v.begins(e)
	case actionFrozen:
		var head namedHead
		if head, err = e.head(); err == nil {
			v.view.frozen[head.Origin] = head
			err = v.wantOf(head, s, e)
		}
	case actionLotHead:
		err = v.lotHead(s, e)
	}
	if err != nil {
		return err
	}
	return s.walk.leaf(tlog.Hash(pipeline.LeafHash(line)))
}

// follows checks that an event is the next one of a log.
func (w *walk) follows(e *eventLine, head LogHead) error {
	switch {
	case e.Schema != eventSchema2 && (head.Kind != KindLegacy || e.Schema != eventSchema1):
		return fmt.Errorf("an event of schema %.40q", e.Schema)
	case e.Station != head.Station:
		return fmt.Errorf("an event of station %q in the log %s", e.Station, head.Origin)
	case max(e.Epoch, 1) != int64(max(head.Epoch, 1)):
		return fmt.Errorf("an event of epoch %d in the log %s", e.Epoch, head.Origin)
	case e.Seq != w.tree.size+1:
		return fmt.Errorf("event %d follows on leaf %d of the log %s", e.Seq, w.tree.size, head.Origin)
	case e.Time.Before(w.time):
		return fmt.Errorf("event %d is of %s, before the one that it follows", e.Seq, e.Time.Format(timeForm))
	}
	w.time = e.Time
	return nil
}

// lotHead takes a leaf that names a lot log's head.
func (v *verifier) lotHead(s *stationView, e *eventLine) error {
	head, err := e.head()
	if err != nil {
		return err
	}
	lot, station := e.fact("lot"), s.head.Station
	if other := e.fact("for"); other != "" {
		station = other
		v.view.adopted[head.Origin] = adoption{s.head.Station, e.fact("reason")}
	}
	if !isLotOrigin(head.Origin, station, lot) {
		return fmt.Errorf("%s is not a log of lot %q at station %q", head.Origin, lot, station)
	}
	v.saw(station, lot, head, e.Time)
	if lot != v.st.Predicate.Lot {
		return nil
	}
	if old, ok := v.view.named[head.Origin]; ok && old.Size > head.Size {
		return fmt.Errorf("the log %s shrank from %d events to %d", head.Origin, old.Size, head.Size)
	}
	v.view.named[head.Origin], v.view.closed = head, e.Time
	return v.wantOf(head, s, e)
}

// isLotOrigin reports whether an origin is that of a lot's log in any epoch.
func isLotOrigin(origin, station, lot string) bool {
	rest, ok := strings.CutPrefix(origin, LotOrigin(station, lot, 1))
	if !ok || lot == "" || rest == "" {
		return ok && lot != ""
	}
	epoch, err := parseSize(strings.TrimPrefix(rest, "/"))
	return err == nil && epoch > 1 && rest[0] == '/'
}

// wantOf wants a head of one of the lot's logs.
func (v *verifier) wantOf(head namedHead, s *stationView, e *eventLine) error {
	if w, ok := v.view.walks[head.Origin]; ok {
		return w.wantAt(head, fmt.Sprintf("leaf %d of the log %s", e.Seq, s.head.Origin), e.Time)
	}
	if e.Action == actionFrozen {
		return nil // the old log of a station that had no part in the lot
	}
	return fmt.Errorf("names the log %s of this lot, which the bundle does not have", head.Origin)
}

// saw notes a lot for the report.
func (v *verifier) saw(station, lot string, head namedHead, at time.Time) {
	for i := range v.report.Lots {
		if l := &v.report.Lots[i]; l.Station == station && l.Lot == lot {
			l.Events, l.Time = head.Size, at
			return
		}
	}
	v.report.Lots = append(v.report.Lots, LotSeen{station, lot, head.Size, at})
}

// stationHead checks who signed a station log, and that it is the key that the
// log names.
func (v *verifier) stationHead(s *stationView) error {
	name := folderOf(s.head) + "/" + nameCheckpoint
	if kept, old := v.view.previous[s.head.Origin]; old || v.laterEpoch(s.head) {
		// An epoch that ended is vouched for by the next one.
		if !v.names(name) {
			if old && kept != s.head.named() {
				return flawed(fileStatement, "the log %s is not what its next epoch says was kept", s.head.Origin)
			}
			return nil
		}
	}
	signed, err := v.read(name, maxCheckpoint)
	if err != nil {
		return err
	}
	key, err := v.signedHead(name, signed, s.head, s.head.Station)
	if err != nil {
		return err
	}
	if s.key == nil {
		return flawed(folderOf(s.head)+"/"+nameLeaves, "does not say which key signs it")
	}
	if id, err := KeyID(key.Key); err != nil || id != s.key.newKey() {
		return flawed(name, "is signed by key %.16s.., but the log says that %.16s.. signs", id, s.key.newKey())
	}
	if c := v.st.Predicate.Custody; s.head.Station == v.st.Predicate.Station && (c == nil || *c != custodyOf(s.key)) {
		return flawed(fileStatement, "says another custody of the audit key than the station log")
	}
	if err := v.cosigned(s.head, signed, s.walk.time); err != nil {
		return err
	}
	return v.timestamp(s.head, signed, s.walk.time)
}

// laterEpoch reports whether the bundle has a later epoch of a log.
func (v *verifier) laterEpoch(h LogHead) bool {
	return slices.ContainsFunc(v.st.Predicate.Logs, func(o LogHead) bool {
		return o.Kind == h.Kind && o.Station == h.Station && o.Epoch > h.Epoch
	})
}

// signedHead opens a checkpoint, which must be the listed head, signed by a key
// that may sign for the station, and returns that key.
func (v *verifier) signedHead(name string, signed []byte, head LogHead, station string) (PublicKey, error) {
	for _, key := range v.trust.of(station) {
		c, err := openCheckpoint(signed, []PublicKey{key}, nil)
		if errors.Is(err, errUnsigned) {
			continue
		}
		if err != nil {
			return key, flawed(name, "%v", err)
		}
		if c.note.Text != head.text() {
			return key, flawed(name, "is not the head that the statement names")
		}
		if len(c.note.Sigs)+len(c.note.UnverifiedSigs) != 1 {
			return key, flawed(name, "has more than one signature")
		}
		if raw, err := base64.StdEncoding.DecodeString(c.note.Sigs[0].Base64); err != nil || !oneForm(key.Key, raw[4:]) {
			return key, flawed(name, "has a signature that is not in its one form")
		}
		return key, nil
	}
	return PublicKey{}, flawed(name, "%v", errUnsigned)
}

// checkpointsOfLots checks the signatures of the lot's logs, and that the station
// logs name each as it is.
func (v *verifier) checkpointsOfLots() error {
	for _, h := range v.st.Predicate.Logs {
		switch h.Kind {
		case KindLegacy:
			if v.view.frozen[h.Origin] != h.named() {
				return flawed(fileStatement, "no station log names the old log %s as it is", h.Origin)
			}
			v.report.remark("the old log %s shows other lots' events as hashes only: that devices are hidden there cannot be excluded", h.Origin)
		case KindLot:
			if err := v.lotCheckpoint(h); err != nil {
				return err
			}
		}
	}
	for _, text := range v.view.lost {
		v.report.remark("%s: that devices are hidden there cannot be excluded", text)
	}
	return nil
}

func (v *verifier) lotCheckpoint(h LogHead) error {
	if _, ended := v.view.previous[h.Origin]; ended {
		return nil // its next epoch vouches for it, by what was kept
	}
	name, by := folderOf(h)+"/"+nameCheckpoint, h.Station
	if h.SignedBy != "" {
		a, ok := v.view.adopted[h.Origin]
		if !ok || a.by != h.SignedBy || a.reason == "" {
			return flawed(fileStatement, "says that %s signed the log %s, but no log of it says so and why", h.SignedBy, h.Origin)
		}
		by = h.SignedBy
		v.report.remark("station %s signed the log %s for station %s: %s", by, h.Origin, h.Station, a.reason)
	}
	signed, err := v.read(name, maxCheckpoint)
	if err != nil {
		return err
	}
	if _, err := v.signedHead(name, signed, h, by); err != nil {
		return err
	}
	if v.view.named[h.Origin] != h.named() {
		return flawed(fileStatement, "no station log names the head of %s as it is", h.Origin)
	}
	return nil
}

// earlier is what walks call the checkpoints that the auditor brought along.
const earlier = "the earlier checkpoint"

// since wants the earlier checkpoints that the auditor brought along.
func (v *verifier) since() error {
	for _, head := range v.trust.seen {
		if w, ok := v.view.walks[head.Origin]; ok {
			if err := w.want(head, "the checkpoint that was cosigned last"); err != nil {
				return err
			}
			continue
		}
		v.view.since = append(v.view.since, head)
	}
	for _, signed := range v.trust.Since {
		c, err := openCheckpoint(signed, v.trust.Keys, nil)
		if err != nil {
			return flawed("", "%s: %v", earlier, err)
		}
		i := slices.IndexFunc(v.st.Predicate.Logs, func(h LogHead) bool { return h.Origin == c.origin })
		if i < 0 {
			return flawed("", "%s is of %s, whose log is not in this bundle", earlier, c.origin)
		}
		if w, ok := v.view.walks[c.origin]; ok {
			if err := w.want(namedHead{c.origin, c.root.String(), c.size}, earlier); err != nil {
				return err
			}
			continue
		}
		v.view.since = append(v.view.since, namedHead{c.origin, c.root.String(), c.size})
	}
	return nil
}

// finished reports what a log should have had and did not. What was lost with an
// older ledger, and is admitted, is a remark.
func (v *verifier) finished(w *walk, origin string) error {
	kept, restarted := v.view.previous[origin]
	for _, one := range w.wants {
		if one.met {
			continue
		}
		if one.what == earlier && one.size <= w.tree.size {
			v.report.remark("%s of %d events cannot be checked: the old log %s shows only hashes there", earlier, one.size, origin)
			continue
		}
		if restarted && one.what == earlier && one.size > kept.Size {
			v.report.remark("%s of %d events cannot be checked: the log %s was restarted after %d", earlier, one.size, origin, kept.Size)
			continue
		}
		return &forkError{w.name, *one, w.tree.size}
	}
	return nil
}
