package sandbox

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"keymill/pipeline"
)

// journalName is the file in Config.Dir that the devices are kept in: a line of
// JSON for each state that a device came to, the last one counts.
const journalName = "devices.jsonl"

// journalDelay is how long a change may lie in memory.
const journalDelay = 100 * time.Millisecond

// journal appends to that file. It is not synced: a sandbox may lose its last
// moments with the machine, and loses at most journalDelay with its process.
type journal struct {
	name string

	mu    sync.Mutex
	file  *os.File      // guarded by mu; nil once closed
	out   *bufio.Writer // guarded by mu
	line  []byte        // guarded by mu
	timer *time.Timer   // guarded by mu; nil when nothing waits
	err   error         // guarded by mu; the first failed write
}

// openJournal opens or makes the file and locks it against a second sandbox.
func openJournal(name string) (*journal, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's journal: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(pipeline.WithHint(fmt.Errorf("another sandbox uses %s: %w", name, err), "Stop it, or name another folder with --dir."), f.Close())
	}
	return &journal{name: name, file: f, out: bufio.NewWriterSize(f, 1<<16)}, nil
}

// entry is a line of the journal.
type entry struct {
	Number          uint64          `json:"n"`
	Gone            bool            `json:"gone"`
	Decommissioning bool            `json:"decommissioning"`
	Status          string          `json:"status"`
	Created         int64           `json:"created"` // Unix microseconds
	Updated         int64           `json:"updated"`
	Identity        json.RawMessage `json:"identity"`
	Sets            []entrySet      `json:"sets"`
	Tier            string          `json:"tier,omitempty"`
	Inventory       *inventory      `json:"inventory,omitempty"`
}

type entrySet struct {
	Number uint64 `json:"n"`
	SPKI   []byte `json:"spki"`
	At     int64  `json:"at"`
	Status string `json:"status"`
	Tier   string `json:"tier,omitempty"`
}

// put appends a device's state. The device's shard must be locked, so that its
// lines come in order.
func (j *journal) put(d *device) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return
	}
	j.line = appendEntry(j.line[:0], d)
	j.failed(writeAll(j.out, j.line))
	if j.timer == nil {
		j.timer = time.AfterFunc(journalDelay, j.flush)
	}
}

func writeAll(w io.Writer, line []byte) error {
	_, err := w.Write(line)
	return err
}

// failed remembers the first error for close. The lock must be held.
func (j *journal) failed(err error) {
	if j.err == nil && err != nil {
		j.err = fmt.Errorf("the sandbox's journal: %w", err)
	}
}

func (j *journal) flush() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.failed(j.out.Flush())
	}
	j.timer = nil
}

// close writes what waits, closes the file and returns the first error of all
// writes. A second close does nothing.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	if j.timer != nil {
		j.timer.Stop()
	}
	j.failed(j.out.Flush())
	j.failed(j.file.Close())
	j.file = nil
	return j.err
}

func appendEntry(dst []byte, d *device) []byte {
	dst = append(dst, `{"n":`...)
	dst = strconv.AppendUint(dst, d.number, 10)
	if d.gone {
		dst = append(dst, `,"gone":true`...)
		if len(d.sets) == 0 {
			return append(dst, "}\n"...)
		}
	}
	if d.decommissioning {
		dst = append(dst, `,"decommissioning":true`...)
	}
	dst = append(append(append(dst, `,"status":"`...), d.status.String()...), `","created":`...)
	dst = strconv.AppendInt(dst, d.created, 10)
	dst = strconv.AppendInt(append(dst, `,"updated":`...), d.updated, 10)
	dst = append(append(append(dst, `,"identity":`...), d.identity...), `,"sets":[`...)
	for i, s := range d.sets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(append(dst, `{"n":`...), s.number, 10)
		dst = base64.StdEncoding.AppendEncode(append(dst, `,"spki":"`...), []byte(s.spki))
		dst = strconv.AppendInt(append(dst, `","at":`...), s.at, 10)
		dst = append(append(append(dst, `,"status":"`...), s.status.String()...), '"')
		if s.tier != "" {
			dst = append(append(append(dst, `,"tier":"`...), s.tier...), '"')
		}
		dst = append(dst, '}')
	}
	dst = append(dst, ']')
	if d.tier != "" {
		dst = append(append(append(dst, `,"tier":"`...), d.tier...), '"')
	}
	if d.inventory != nil {
		dst = append(append(dst, `,"inventory":`...), d.inventory.json()...)
	}
	return append(dst, "}\n"...)
}

// replay puts the journal's devices into an empty store. A last line that was
// cut by a kill is dropped from the file.
func (j *journal) replay(st *store) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	in := bufio.NewReaderSize(j.file, 1<<16)
	var read int64
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the sandbox's journal: %w", err)
		}
		if err := st.apply(bytes.TrimSpace(line)); err != nil {
			return fmt.Errorf("%s, line %d is damaged; remove its folder to start afresh: %w", j.name, n, err)
		}
		read += int64(len(line))
	}
	st.recount()
	if err := j.file.Truncate(read); err != nil {
		return fmt.Errorf("the sandbox's journal: %w", err)
	}
	return nil
}

// apply takes over one line of the journal. Nothing else uses the store yet;
// the counts are left to recount.
func (st *store) apply(line []byte) error {
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	const most = 1 << 28 // more would be a damaged line that asks for all memory
	if e.Number >= most {
		return fmt.Errorf("device number %d", e.Number)
	}
	d := &device{
		number: e.Number, created: e.Created, updated: e.Updated,
		decommissioning: e.Decommissioning, gone: e.Gone, inventory: e.Inventory,
	}
	if d.tier = e.Tier; d.tier != "" && !isTier(d.tier) {
		return fmt.Errorf("tier %q", e.Tier)
	}
	if !e.Gone || len(e.Sets) > 0 {
		// It was canonical when it was written; that it is JSON was just checked.
		if !bytes.HasPrefix(e.Identity, []byte("{")) {
			return errNotObject
		}
		d.identity = identity(e.Identity)
		var ok bool
		if d.status, ok = parseStatus(e.Status); !ok {
			return fmt.Errorf("status %q", e.Status)
		}
	}
	for _, s := range e.Sets {
		status, ok := parseStatus(s.Status)
		if !ok {
			return fmt.Errorf("status %q", s.Status)
		}
		if s.Tier != "" && !isTier(s.Tier) {
			return fmt.Errorf("tier %q", s.Tier)
		}
		d.sets = append(d.sets, authSet{number: s.Number, setKey: setKey{string(s.SPKI), s.Tier}, at: s.At, status: status})
		st.sets.Store(max(st.sets.Load(), s.Number))
	}
	sh := &st.shards[e.Number%shardCount]
	for uint64(len(sh.byPosition)) <= e.Number/shardCount {
		sh.byPosition = append(sh.byPosition, nil)
	}
	sh.byPosition[e.Number/shardCount] = d
	return nil
}

// recount builds the indexes and counts from the positions after a replay.
func (st *store) recount() {
	for i := range st.shards {
		sh := &st.shards[i]
		for p, d := range sh.byPosition {
			switch {
			case d == nil:
			case d.gone:
				sh.byPosition[p] = nil
				if len(d.sets) > 0 {
					sh.strand(d.identity.sum(), d)
				}
			default:
				sh.byIdentity[d.identity.sum()] = d
				st.counted(sh, d, 1)
				if d.decommissioning {
					st.doom(d.number)
				}
			}
		}
	}
}
