package hsm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// FileJournal is a Journal in a file that is only ever appended to. An entry is
// a line: "+ ID LABEL TOKEN" before an object is made, "- ID" after it was
// destroyed; ID is hexadecimal, LABEL and TOKEN quoted as Go does it. A line
// that a crash cut short is dropped when the file is opened: the object that it
// announced was never made.
//
// Several processes may have the same journal open, which the kernel's locks
// tell: nobody cleans up behind one that is at work.
type FileJournal struct {
	file *os.File

	mu      sync.Mutex              // guards the rest
	open    map[string]JournalEntry // by id (raw bytes): objects that may exist
	written int64                   // entries so far

	syncing sync.Mutex // held by who syncs for all that wait; guards the rest
	durable int64      // of written
	failed  error      // of a sync: what it lost, no later one brings back
}

// ErrJournalInUse says that another process makes keys in a token.
var ErrJournalInUse = errors.New("another keymill is at work with a token")

// OpenJournal opens or makes the journal at path, mode 0600.
func OpenJournal(path string) (*FileJournal, error) { return newJournal(path, false) }

// OpenJournalAlone is OpenJournal for who cleans up: it fails with
// ErrJournalInUse while anybody else has the journal open, and keeps others
// from opening it until it is closed.
func OpenJournalAlone(path string) (*FileJournal, error) { return newJournal(path, true) }

func newJournal(path string, alone bool) (*FileJournal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &FileJournal{file: file, open: map[string]JournalEntry{}}
	if err := j.begin(alone); err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), file.Close())
	}
	return j, nil
}

// begin locks and reads the journal. Who is alone with it drops what a crash
// cut short, and what is over and done with.
func (j *FileJournal) begin(alone bool) error {
	first := j.lock(unix.LOCK_EX) == nil
	switch {
	case !first && alone:
		return ErrJournalInUse
	case !first:
		if err := j.share(); err != nil {
			return err
		}
	}
	whole, err := j.read()
	if err != nil || !first {
		return err
	}
	if len(j.open) == 0 {
		whole = 0
	}
	if err := j.file.Truncate(whole); err != nil {
		return err
	}
	if alone {
		return nil
	}
	return j.share()
}

func (j *FileJournal) lock(how int) error { return unix.Flock(int(j.file.Fd()), how|unix.LOCK_NB) }

// share waits a little for somebody who is alone with the journal: reading it
// takes a moment, cleaning up a token not much longer.
func (j *FileJournal) share() error {
	for range 50 {
		if j.lock(unix.LOCK_SH) == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ErrJournalInUse
}

// read returns the length of all complete lines.
func (j *FileJournal) read() (whole int64, err error) {
	in := bufio.NewReader(j.file)
	for number := 1; ; number++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // what follows the last newline was cut short
			return whole, nil
		}
		if err != nil {
			return 0, err
		}
		if err := j.apply(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return 0, fmt.Errorf("line %d: %w", number, err)
		}
		whole += int64(len(line))
	}
}

func (j *FileJournal) apply(line []byte) error {
	var sign, id string
	var entry JournalEntry
	// Entries of before tokens were written down have three fields.
	if n, err := fmt.Sscanf(string(line), "%1s %s %q %q", &sign, &id, &entry.Label, &entry.Token); err != nil && n < 3 && sign != "-" {
		return errors.New("not an entry of a journal")
	}
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) == 0 {
		return errors.New("no id in the entry")
	}
	switch sign {
	case "+":
		entry.ID = raw
		j.open[string(raw)] = entry
	case "-":
		delete(j.open, string(raw))
	default:
		return fmt.Errorf("unknown sign %q", sign)
	}
	return nil
}

// Intend implements Journal.
func (j *FileJournal) Intend(_ context.Context, object JournalEntry) error {
	object.ID = bytes.Clone(object.ID)
	n, err := j.append(fmt.Sprintf("+ %x %q %q\n", object.ID, object.Label, object.Token), func() { j.open[string(object.ID)] = object })
	if err != nil {
		return err
	}
	return j.sync(n)
}

// Done implements Journal.
func (j *FileJournal) Done(_ context.Context, id []byte) error {
	_, err := j.append(fmt.Sprintf("- %x\n", id), func() { delete(j.open, string(id)) })
	return err
}

// append writes an entry, at once with what it means, and returns its number.
func (j *FileJournal) append(entry string, means func()) (int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.WriteString(entry); err != nil {
		return 0, fmt.Errorf("journal of token objects: %w", err)
	}
	means()
	j.written++
	return j.written, nil
}

// sync returns when the nth entry is durable. One sync serves all whose entries
// were written before it began.
func (j *FileJournal) sync(n int64) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	if j.failed != nil || j.durable >= n {
		return j.failed
	}
	j.mu.Lock()
	written := j.written
	j.mu.Unlock()
	if err := j.file.Sync(); err != nil {
		j.failed = fmt.Errorf("journal of token objects: %w", err)
		return j.failed
	}
	j.durable = written
	return nil
}

// Open returns what was announced and not reported destroyed, ordered by id.
func (j *FileJournal) Open() []JournalEntry {
	j.mu.Lock()
	defer j.mu.Unlock()
	entries := make([]JournalEntry, 0, len(j.open))
	for _, entry := range j.open {
		entries = append(entries, entry)
	}
	slices.SortFunc(entries, func(a, b JournalEntry) int { return bytes.Compare(a.ID, b.ID) })
	return entries
}

// Close closes the file, and with it ends the lock. A journal that is nil has
// nothing to close.
func (j *FileJournal) Close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}
