package hsm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// FileJournal is a Journal in a file that is only ever appended to and is
// synced at every entry. An entry is a line: "+ ID LABEL" before an object is
// made, "- ID" after it was destroyed; ID is hexadecimal, LABEL quoted as Go
// does it. A line that a crash cut short is dropped when the file is opened: the
// object that it announced was never made.
type FileJournal struct {
	mu   sync.Mutex // guards both
	file *os.File
	open map[string]string // label by id (raw bytes) of objects that may exist
}

// JournalEntry is an object that was announced and not reported destroyed.
type JournalEntry struct {
	ID    []byte
	Label string
}

// OpenJournal opens or makes the journal at path, mode 0600.
func OpenJournal(path string) (*FileJournal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &FileJournal{file: file, open: map[string]string{}}
	if err := j.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), file.Close())
	}
	return j, nil
}

func (j *FileJournal) read() error {
	var whole int64 // bytes of complete lines
	in := bufio.NewReader(j.file)
	for number := 1; ; number++ {
		line, err := in.ReadBytes('\n')
		if err != nil { // io.EOF: what follows the last newline was cut short
			break
		}
		if err := j.apply(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		whole += int64(len(line))
	}
	if err := j.file.Truncate(whole); err != nil {
		return err
	}
	_, err := j.file.Seek(whole, 0)
	return err
}

func (j *FileJournal) apply(line []byte) error {
	var sign, id, label string
	if _, err := fmt.Sscanf(string(line), "%1s %s %q", &sign, &id, &label); err != nil && sign != "-" {
		return errors.New("not an entry of a journal")
	}
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) == 0 {
		return errors.New("no id in the entry")
	}
	switch sign {
	case "+":
		j.open[string(raw)] = label
	case "-":
		delete(j.open, string(raw))
	default:
		return fmt.Errorf("unknown sign %q", sign)
	}
	return nil
}

// Intend implements Journal.
func (j *FileJournal) Intend(_ context.Context, id []byte, label string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.open[string(id)] = label
	return j.append(fmt.Sprintf("+ %x %q\n", id, label))
}

// Done implements Journal.
func (j *FileJournal) Done(_ context.Context, id []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.open, string(id))
	return j.append(fmt.Sprintf("- %x\n", id))
}

func (j *FileJournal) append(entry string) error {
	if _, err := j.file.WriteString(entry); err != nil {
		return fmt.Errorf("journal of token objects: %w", err)
	}
	return j.file.Sync()
}

// Open returns what was announced and not reported destroyed, ordered by id.
func (j *FileJournal) Open() []JournalEntry {
	j.mu.Lock()
	defer j.mu.Unlock()
	entries := make([]JournalEntry, 0, len(j.open))
	for id, label := range j.open {
		entries = append(entries, JournalEntry{ID: []byte(id), Label: label})
	}
	slices.SortFunc(entries, func(a, b JournalEntry) int { return bytes.Compare(a.ID, b.ID) })
	return entries
}

// Close closes the file.
func (j *FileJournal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}
