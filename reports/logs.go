package reports

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// Kinds of logs, as statements name them.
const (
	KindLot     = string(pipeline.LogLot)     // all events of one lot at one station
	KindStation = string(pipeline.LogStation) // the heads of a station's lot logs, and its own events
	KindLegacy  = string(pipeline.LogLegacy)  // of the first format: all events of a station, frozen
)

// Log is one append-only log of a station.
type Log = pipeline.Log

// Actions of a station log's own events and of those that tie logs together.
const (
	actionLotHead   = pipeline.ActionLotHead
	actionFrozen    = pipeline.ActionFrozen
	actionContinued = pipeline.ActionContinued
	actionRestarted = pipeline.ActionRestarted
	actionKey       = "audit-key"   // the station begins to sign with a key; see Custody
	actionRotated   = "key-rotated" // from one audit key to another, signed by both
)

// Journal takes what a station signs into its ledger.
type Journal interface {
	// Append adds an event to the log that it belongs to: of a lot, or the
	// station's. It returns the event's number.
	Append(ctx context.Context, e pipeline.Event) (int64, error)
	// SaveHead keeps a checkpoint, so that other stations can export it.
	SaveHead(ctx context.Context, origin string, size int64, signed string) error
}

// StationOrigin returns the origin of a station log, the first line of its
// checkpoints.
func StationOrigin(station string, epoch int) string { return pipeline.LogOrigin(station, "", epoch) }

// LotOrigin returns the origin of a lot log.
func LotOrigin(station, lot string, epoch int) string {
	return pipeline.LogOrigin(station, lot, epoch)
}

// folderOf returns the folder of a log's files in a bundle.
func folderOf(h LogHead) string {
	part := func(name string) string {
		if h.Epoch > 1 {
			name += "." + strconv.Itoa(h.Epoch)
		}
		return folderLog + "/" + escapeName(h.Station) + "/" + name
	}
	switch h.Kind {
	case KindStation:
		if h.Epoch <= 1 {
			return folderLog + "/" + escapeName(h.Station)
		}
		return part("epoch")
	case KindLot:
		return part("lot")
	}
	return folderLog + "/" + escapeName(h.Station) + "/legacy"
}

// origin returns what the origin of a head must be.
func (h LogHead) origin(lot string) string {
	switch h.Kind {
	case KindStation:
		return StationOrigin(h.Station, h.Epoch)
	case KindLot:
		return LotOrigin(h.Station, lot, h.Epoch)
	}
	return Origin(h.Station)
}

// A namedHead is the head of a log as an event names it.
type namedHead struct {
	Origin string `json:"origin"`
	Root   string `json:"root"`
	Size   int64  `json:"size"`
}

// facts returns the head as an event's facts.
func (h namedHead) facts(more ...pipeline.Attr) []pipeline.Attr {
	return sortedFacts(append(more, pipeline.Attr{Name: "origin", Value: h.Origin}, pipeline.Attr{Name: "root", Value: h.Root},
		pipeline.Attr{Name: "size", Value: strconv.FormatInt(h.Size, 10)}))
}

// head reads the head that an event's facts name.
func (e *eventLine) head() (namedHead, error) {
	h := namedHead{Origin: e.fact("origin"), Root: e.fact("root")}
	var err error
	if h.Size, err = parseSize(e.fact("size")); err != nil || h.Origin == "" {
		return h, fmt.Errorf("event %d (%s) names no head of a log", e.Seq, e.Action)
	}
	if _, err := parseRoot(h.Root); err != nil {
		return h, fmt.Errorf("event %d (%s): %w", e.Seq, e.Action, err)
	}
	return h, nil
}

// heads reads the heads of the stations' logs that a lot-closed event lists.
func (e *eventLine) heads() ([]namedHead, error) {
	text := e.fact(factHeads)
	if text == "" {
		return nil, nil
	}
	var heads []namedHead
	if err := json.Unmarshal([]byte(text), &heads); err != nil {
		return nil, fmt.Errorf("event %d (%s): its heads are not readable", e.Seq, e.Action)
	}
	if again, err := json.Marshal(heads); err != nil || string(again) != text {
		return nil, fmt.Errorf("event %d (%s): its heads are not in the form in which they are written", e.Seq, e.Action)
	}
	return heads, nil
}

const factHeads = "heads" // of lot-closed: each lot log's head, JSON

func parseSize(text string) (int64, error) {
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != text {
		return 0, fmt.Errorf("a log's size cannot be %.20q", text)
	}
	return size, nil
}

func parseRoot(text string) (tlog.Hash, error) {
	root, err := tlog.ParseHash(text)
	if err != nil || root.String() != text {
		return root, fmt.Errorf("a log's root is 32 bytes in base64, not %.60q", text)
	}
	return root, nil
}

// walk follows a log's leaves from the first one and computes its tree.
type walk struct {
	name   string // of the log, for messages
	tree   frontier
	wants  []*want
	bySize map[int64][]*want
	time   time.Time // of the last event
}

// want is a state that a log must have had.
type want struct {
	size int64
	root tlog.Hash
	what string    // who says so, for messages
	at   time.Time // when it was so, as who says it says; zero if that is not known
	met  bool
}

// A forkError says that a log contradicts an earlier head of itself.
type forkError struct {
	name string
	want want
	size int64 // of the log; below want.size if it was rolled back
}

func (e *forkError) Error() string {
	if e.size < e.want.size {
		return fmt.Sprintf("%s was rolled back: %s is of %d events, the log has %d", e.name, e.want.what, e.want.size, e.size)
	}
	return fmt.Sprintf("%s is not the one that %s vouches for: its first %d events differ", e.name, e.want.what, e.want.size)
}

func (w *walk) want(h namedHead, what string) error { return w.wantAt(h, what, time.Time{}) }

// wantAt wants a head that was seen at a time: no event of it is later.
func (w *walk) wantAt(h namedHead, what string, at time.Time) error {
	root, err := parseRoot(h.Root)
	if err != nil {
		return err
	}
	one := &want{size: h.Size, root: root, what: what, at: at}
	if w.bySize == nil {
		w.bySize = map[int64][]*want{}
	}
	w.wants, w.bySize[h.Size] = append(w.wants, one), append(w.bySize[h.Size], one)
	return w.check(one)
}

// check compares one wanted state, if it is that of the tree as it stands.
func (w *walk) check(one *want) error {
	if one.size != w.tree.size {
		return nil
	}
	if w.tree.root() != one.root {
		return &forkError{w.name, *one, w.tree.size}
	}
	if !one.at.IsZero() && w.time.After(one.at.Add(clockSkew)) {
		return fmt.Errorf("event %d of %s is of %s, but %s has it at %s already", w.tree.size, w.name, w.time.Format(timeForm), one.what, one.at.Format(timeForm))
	}
	one.met = true
	return nil
}

// leaf takes the next leaf.
func (w *walk) leaf(hash tlog.Hash) error { return w.node(node{start: w.tree.size, hash: hash}) }

// node takes the next leaves as one subtree.
func (w *walk) node(n node) error {
	if err := w.tree.add(n); err != nil {
		return err
	}
	for _, one := range w.bySize[w.tree.size] {
		if err := w.check(one); err != nil {
			return err
		}
	}
	return nil
}

// done reports what the log should have had and did not.
func (w *walk) done() error {
	for _, one := range w.wants {
		if !one.met {
			return &forkError{w.name, *one, w.tree.size}
		}
	}
	return nil
}

// stored takes an event from a ledger, which must be the next one.
func (w *walk) stored(e pipeline.StoredEvent) error {
	if e.Seq != w.tree.size+1 {
		return fmt.Errorf("the ledger lacks event %d of %s", w.tree.size+1, w.name)
	}
	if pipeline.LeafHash(e.Canonical) != e.Leaf {
		return fmt.Errorf("event %d of %s is not what was logged", e.Seq, w.name)
	}
	return w.leaf(tlog.Hash(e.Leaf))
}

func (w *walk) head(origin string) namedHead {
	return namedHead{Origin: origin, Root: w.tree.root().String(), Size: w.tree.size}
}

// logName is what messages call a log.
func logName(l Log) string {
	switch l.Kind {
	case pipeline.LogStation:
		return "the log of station " + l.Station
	case pipeline.LogLot:
		return fmt.Sprintf("the log of lot %s at station %s", l.Lot, l.Station)
	}
	return "the old log of station " + l.Station
}

// stripNote returns a checkpoint's body, which is what is signed.
func stripNote(signed []byte) string {
	body, _, _ := strings.Cut(string(signed), "\n\n")
	return body + "\n"
}
