package reports

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// stationLog is one station's log as an export reads it: all leaves of the
// station, of which the lot's own are known by their events and the others go
// into the bundle as the fewest subtrees that cover them.
type stationLog struct {
	station string
	size    int64    // leaves
	leaves  *os.File // of all events: a byte of marks, then the hash
	buf     *bufio.Writer
	action  string   // of the last event
	own     int      // leaves of the lot
	issued  []issued // checkpoints found in the log
}

// issued is a checkpoint that the station signed earlier.
type issued struct {
	*checkpoint
	signed []byte
}

const leafRecord = 1 + tlog.HashSize

// Marks of a leaf.
const (
	markOwn   = 1 << iota // it is the lot's
	markQuiet             // before it nothing was under way: a checkpoint may have been issued
)

// quiet reports whether a station may have rested between two events: a run, an
// undoing or the like began or ended there. Checkpoints that were handed out
// without being recorded were made at such points.
func quiet(before, after string) bool {
	return before != after && (!underWay(before) || !underWay(after))
}

func underWay(action string) bool {
	switch action {
	case pipeline.ActionStage, pipeline.ActionPreauthorize, pipeline.ActionRelease, pipeline.ActionFail, pipeline.ActionConflict:
		return true
	}
	return false
}

func newStationLog(dir, station string) (*stationLog, error) {
	f, err := os.CreateTemp(dir, ".leaves-*")
	if err != nil {
		return nil, err
	}
	// The file has no name from here on: nothing of it can stay in the bundle.
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	return &stationLog{station: station, leaves: f, buf: bufio.NewWriterSize(f, 256<<10)}, nil
}

func (l *stationLog) close() { _ = l.leaves.Close() }

// add appends one event, which must be the station's next.
func (l *stationLog) add(e pipeline.StoredEvent, own bool) error {
	if e.Seq != l.size+1 {
		return fmt.Errorf("the ledger's log of station %s lacks event %d", e.Station, l.size+1)
	}
	if pipeline.LeafHash(e.Canonical) != e.Leaf {
		return fmt.Errorf("event %d of station %s is not what was logged", e.Seq, e.Station)
	}
	l.size++
	mark, action := byte(0), actionOf(e.Canonical)
	if own {
		mark |= markOwn
		l.own++
	}
	if quiet(l.action, action) {
		mark |= markQuiet
	}
	l.action = action
	_ = l.buf.WriteByte(mark)
	_, err := l.buf.Write(e.Leaf[:]) // a bufio.Writer keeps its error
	return err
}

// note takes a checkpoint of this log that an event carries.
func (l *stationLog) note(signed []byte) error {
	c, err := openCheckpoint(signed, nil, nil)
	if err != nil {
		return fmt.Errorf("station %s recorded a checkpoint that cannot be read: %w", l.station, err)
	}
	if c.origin == Origin(l.station) {
		l.issued = append(l.issued, issued{c, signed})
	}
	return nil
}

// head computes the log's head and writes its nodes file: one line a subtree,
// "START LEVEL HASH", that covers leaves of other lots. No subtree spans the
// end of an issued checkpoint, recorded or likely, so that each can be checked
// against the log. A recorded one that the log contradicts is an error.
func (l *stationLog) head(out io.Writer) (LogHead, error) {
	var tree, gap frontier
	issued := slices.SortedStableFunc(slices.Values(l.issued), func(a, b issued) int { return cmp.Compare(a.size, b.size) })
	flush := func() error {
		err := writeNodes(out, gap.nodes)
		gap = frontier{start: tree.size, nodes: gap.nodes[:0]}
		return err
	}
	err := l.each(func(n node, marks byte) error {
		own := marks&markOwn != 0
		if marks&markQuiet != 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		tree.push(n)
		if !own {
			gap.push(n)
		}
		cut := false
		for ; len(issued) > 0 && issued[0].size == tree.size; issued = issued[1:] {
			cut = true
			if tree.root() != issued[0].root {
				return pipeline.WithHint(
					fmt.Errorf("the ledger was changed: the log of station %s no longer agrees with its checkpoint of %d events", l.station, tree.size),
					"compare the ledger with its backups; earlier bundles show what it held")
			}
		}
		if own || cut || tree.size == l.size {
			return flush()
		}
		return nil
	})
	if err != nil {
		return LogHead{}, err
	}
	if len(issued) > 0 {
		return LogHead{}, pipeline.WithHint(
			fmt.Errorf("the ledger was rolled back: station %s issued a checkpoint of %d events, the log has %d", l.station, issued[0].size, l.size),
			"find the newer ledger; an older copy of it was restored")
	}
	return LogHead{Station: l.station, Origin: Origin(l.station), Size: l.size, Root: tree.root().String()}, nil
}

// each yields the leaves from left to right with their marks.
func (l *stationLog) each(yield func(n node, marks byte) error) error {
	if err := l.buf.Flush(); err != nil {
		return err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(l.leaves, 0, l.size*leafRecord), 256<<10)
	record := make([]byte, leafRecord)
	for i := range l.size {
		if _, err := io.ReadFull(in, record); err != nil {
			return err
		}
		if err := yield(node{start: i, hash: tlog.Hash(record[1:])}, record[0]); err != nil {
			return err
		}
	}
	return nil
}

func writeNodes(out io.Writer, nodes []node) error {
	line := make([]byte, 0, 80)
	for _, n := range nodes {
		line = strconv.AppendInt(line[:0], n.start, 10)
		line = append(line, ' ')
		line = strconv.AppendInt(line, int64(n.level), 10)
		line = append(line, ' ')
		line = base64.StdEncoding.AppendEncode(line, n.hash[:])
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// factCheckpoint is the fact under which events of the first format carry a signed
// checkpoint.
const factCheckpoint = "checkpoint"

const actionPrefix = `{"action":"`

// actionOf reads the first member of an event's canonical JSON.
func actionOf(canonical []byte) string {
	rest, ok := bytes.CutPrefix(canonical, []byte(actionPrefix))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return ""
	}
	return string(rest[:end])
}

func isAction(canonical []byte, action string) bool { return actionOf(canonical) == action }
