package imaging

import (
	"errors"
	"sync"
)

// folderSync makes names durable for many goroutines at once: whoever gets the
// turn syncs for all that have gathered meanwhile.
type folderSync struct {
	turn chan struct{}

	mu     sync.Mutex // guards what follows
	gather *folderBatch
}

// folderBatch is what one turn makes durable.
type folderBatch struct {
	dirs map[string]bool
	done chan struct{} // closed when err is final
	err  error
}

func newFolderSync() *folderSync {
	return &folderSync{turn: make(chan struct{}, 1), gather: newFolderBatch()}
}

func newFolderBatch() *folderBatch {
	return &folderBatch{dirs: make(map[string]bool), done: make(chan struct{})}
}

// sync returns when the names in a folder are durable.
func (s *folderSync) sync(dir string) error {
	s.mu.Lock()
	b := s.gather
	b.dirs[dir] = true
	s.mu.Unlock()
	select {
	case <-b.done:
	case s.turn <- struct{}{}:
		s.commit(b)
		<-s.turn
	}
	return b.err
}

// commit syncs a batch's folders, unless that was done already.
func (s *folderSync) commit(b *folderBatch) {
	s.mu.Lock()
	if s.gather != b {
		s.mu.Unlock()
		return
	}
	s.gather = newFolderBatch()
	s.mu.Unlock()
	for dir := range b.dirs {
		b.err = errors.Join(b.err, syncDir(dir))
	}
	close(b.done)
}
