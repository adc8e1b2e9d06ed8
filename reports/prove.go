package reports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"keymill/pipeline"
)

// DeviceProof shows that a device was released: its event in the lot log, and that
// log's head in the station log, which is the one that witnesses cosign and
// authorities stamp. Each is a .tlog-proof that stock tools read.
type DeviceProof struct {
	Proof     []byte // the event in the lot log, or in a log of the first format
	Head      []byte // the lot log's head in the station log; nil in the first format
	Timestamp []byte // of the station log's checkpoint (RFC 3161), nil if there is none
}

// lotLeaf is the last release of a device in one of the lot's logs.
type lotLeaf struct {
	log   *bookLog
	index int64
	event []byte
	state pipeline.State // after the last change, of any log
}

// take notes an event of the lot, if it is about the row.
func (f *lotLeaf) take(l *bookLog, row int, index int64, line []byte) error {
	if !bytes.Contains(line, []byte(`"row":`)) {
		return nil
	}
	e, err := parseEvent(line)
	if err != nil || e.Row != row || e.To == "" {
		return err
	}
	f.state = e.To
	if e.Action == pipeline.ActionRelease {
		f.log, f.index, f.event = l, index, bytes.Clone(line)
	}
	return nil
}

// current refuses the proof of a state that is over.
func (f *lotLeaf) current(row int) error {
	switch {
	case f.event == nil:
		return errNotReleased(row)
	case f.state != pipeline.Released:
		return pipeline.WithHint(fmt.Errorf("the device of row %d was released, and is %s since: there is no proof of a state that is over", row, f.state),
			"look at its events; a proof that was made earlier shows how it stood then")
	}
	return nil
}

// ProveDevice makes the proof that a lot's device, by its row, is released, from
// the ledger. What has grown since it was signed is signed first.
func ProveDevice(ctx context.Context, src Source, lot string, row int, s Signing) (*DeviceProof, error) {
	p, err := readLogs(ctx, src, lot, s)
	if err != nil {
		return nil, err
	}
	found := &lotLeaf{}
	for _, l := range p.eventLogs() {
		each := func(stored pipeline.StoredEvent) error {
			if stored.Lot != lot {
				return nil
			}
			return found.take(l, row, stored.Seq-1, stored.Canonical)
		}
		if err := l.read(ctx, src, each); err != nil {
			return nil, err
		}
	}
	if err := found.current(row); err != nil {
		return nil, err
	}
	if found.log.log.Kind == pipeline.LogLegacy {
		return nil, pipeline.WithHint(errors.New("the device was released in the station's old log, of which this keymill signs no more heads"),
			"make the proof from a bundle that the keymill of then exported: --bundle DIR")
	}
	if err := p.sign(ctx, src); err != nil {
		return nil, err
	}
	path, err := newInclusion(found.index, found.log.walk.tree.size)
	if err != nil {
		return nil, err
	}
	for stored, err := range src.LogEvents(ctx, found.log.log, 0) {
		if err != nil {
			return nil, err
		}
		if stored.Seq > found.log.walk.tree.size {
			break
		}
		if err := path.add(node{start: stored.Seq - 1, hash: stored.Leaf}); err != nil {
			return nil, err
		}
	}
	one, err := proofOf(path, found.event, found.log.signed)
	if err != nil {
		return nil, err
	}
	for _, b := range p.stations {
		if head, err := headProof(b.lines, found.log.named, b.signed); head != nil || err != nil {
			return &DeviceProof{Proof: one, Head: head}, err
		}
	}
	return nil, fmt.Errorf("no station log names the head of %s", found.log.walk.name)
}

// proofOf puts a proof together.
func proofOf(path *inclusion, event, checkpoint []byte) ([]byte, error) {
	hashes, err := path.proof()
	if err != nil {
		return nil, err
	}
	return (&Proof{Index: path.index, Event: event, Hashes: hashes, Checkpoint: checkpoint}).Marshal(), nil
}

// headProof proves the last leaf of a station log that names a head; nil if none
// does.
func headProof(lines [][]byte, head namedHead, checkpoint []byte) ([]byte, error) {
	index := -1
	for i, line := range lines {
		if !isAction(line, actionLotHead) {
			continue
		}
		if e, err := parseEvent(line); err != nil {
			return nil, err
		} else if named, err := e.head(); err == nil && named == head {
			index = i
		}
	}
	if index < 0 {
		return nil, nil
	}
	path, err := newInclusion(int64(index), int64(len(lines)))
	if err != nil {
		return nil, err
	}
	for i, line := range lines {
		if err := path.add(node{start: int64(i), hash: pipeline.LeafHash(line)}); err != nil {
			return nil, err
		}
	}
	return proofOf(path, lines[index], checkpoint)
}

// ProveDeviceFromBundle makes the proof from a bundle's files; device is any of its
// identity's values, or its serial. It needs no key: the bundle's checkpoints are
// used, with their cosignatures if there are any. The bundle is not verified: what
// comes of it is checked by VerifyDevice.
func ProveDeviceFromBundle(ctx context.Context, dir, device string) (*DeviceProof, error) {
	row, err := findRow(dir, device)
	if err != nil {
		return nil, err
	}
	st, err := bundleStatement(dir)
	if err != nil {
		return nil, err
	}
	if st.PredicateType != PredicateType {
		p, err := ProveFromBundle(ctx, dir, device)
		if err != nil {
			return nil, err
		}
		return &DeviceProof{Proof: p.Marshal()}, nil
	}
	b := &bundleProof{ctx: ctx, dir: dir, row: row, st: st}
	return b.make()
}

// bundleProof makes one proof from a bundle of the second format.
type bundleProof struct {
	ctx  context.Context
	dir  string
	row  int
	st   *Statement
	leaf lotLeaf
	head LogHead
}

// each yields the events of the lot with the log that they are of.
func (b *bundleProof) each(take func(h LogHead, index int64, line []byte) error) error {
	lines, err := openLines(b.dir, fileEvents)
	if err != nil {
		return err
	}
	defer lines.close()
	for _, h := range b.st.Predicate.Logs {
		for i := range h.Events {
			line, err := lines.next()
			if errors.Is(err, io.EOF) {
				return flawed(fileEvents, "ends before event %d of the log %s", i+1, h.Origin)
			}
			if err == nil {
				err = take(h, i, line)
			}
			if err == nil && lines.number%4096 == 0 {
				err = b.ctx.Err()
			}
			if err != nil {
				return err
			}
		}
	}
	return b.ctx.Err()
}

func (b *bundleProof) make() (*DeviceProof, error) {
	logs := map[string]*bookLog{}
	err := b.each(func(h LogHead, index int64, line []byte) error {
		l := logs[h.Origin]
		if l == nil {
			l = &bookLog{log: Log{Kind: pipeline.LogKind(h.Kind), Station: h.Station, Epoch: h.Epoch, Origin: h.Origin, Size: h.Size}}
			logs[h.Origin] = l
		}
		if err := b.leaf.take(l, b.row, index, line); err != nil {
			return err
		}
		if b.leaf.log == l && b.leaf.index == index {
			b.head = h
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.leaf.current(b.row); err != nil {
		return nil, err
	}
	if b.head.Kind != KindLot {
		return nil, pipeline.WithHint(errors.New("the device was released in the station's old log, whose heads this bundle does not sign"),
			"make the proof from a bundle that the keymill of then exported")
	}
	path, err := newInclusion(b.leaf.index, b.head.Size)
	if err != nil {
		return nil, err
	}
	err = b.each(func(h LogHead, index int64, line []byte) error {
		if h.Origin != b.head.Origin {
			return nil
		}
		return path.add(node{start: index, hash: pipeline.LeafHash(line)})
	})
	if err != nil {
		return nil, err
	}
	signed, err := readBounded(b.path(b.head, nameCheckpoint), maxCheckpoint)
	if err != nil {
		return nil, err
	}
	proof, err := proofOf(path, b.leaf.event, signed)
	if err != nil {
		return nil, err
	}
	return b.withHead(&DeviceProof{Proof: proof})
}

func (b *bundleProof) path(h LogHead, name string) string {
	return filepath.Join(b.dir, filepath.FromSlash(folderOf(h)), name)
}

// withHead adds the proof of the lot log's head, from the station log that names
// it, and the time stamp.
func (b *bundleProof) withHead(p *DeviceProof) (*DeviceProof, error) {
	for _, h := range b.st.Predicate.Logs {
		if h.Kind != KindStation {
			continue
		}
		leaves, err := readBounded(b.path(h, nameLeaves), maxStatement)
		if err != nil {
			return nil, err
		}
		signed, err := readBounded(b.path(h, nameCosigned), maxCheckpoint)
		if errors.Is(err, fs.ErrNotExist) {
			signed, err = readBounded(b.path(h, nameCheckpoint), maxCheckpoint)
		}
		if err != nil {
			return nil, err
		}
		p.Head, err = headProof(bytes.Split(trimLine(leaves), []byte("\n")), b.head.named(), signed)
		if err != nil {
			return nil, err
		}
		if p.Head == nil {
			continue
		}
		p.Timestamp, err = os.ReadFile(b.path(h, nameTimestamp))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return p, err
	}
	return nil, flawed(fileStatement, "no station log names the head of %s", b.head.Origin)
}

// bundleStatement reads a statement without verifying it.
func bundleStatement(dir string) (*Statement, error) {
	data, err := readBounded(filepath.Join(dir, fileStatement), maxStatement)
	if err != nil {
		return nil, err
	}
	payload, err := envelopePayload(data)
	if err != nil {
		return nil, flawed(fileStatement, "%v", err)
	}
	st, err := parseStatement(payload)
	if err != nil {
		return nil, flawed(fileStatement, "%v", err)
	}
	return st, nil
}

// SplitProofs parts what was written to one file: the proof of a release, and
// behind it that of the lot's head.
func SplitProofs(data []byte) (proof, head []byte) {
	if i := bytes.LastIndex(data, []byte(proofHeader)); i > 0 {
		return data[:i], data[i:]
	}
	return data, nil
}

// IdentityText returns an identity as people read it, made safe to be shown.
func IdentityText(identity map[string]string) string {
	var pairs pipeline.Identity
	for _, name := range slices.Sorted(maps.Keys(identity)) {
		pairs = append(pairs, pipeline.Attr{Name: name, Value: identity[name]})
	}
	return Printable(pairs.String())
}
