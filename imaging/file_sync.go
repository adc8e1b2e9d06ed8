package imaging

import (
	"errors"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// fileSync makes the contents of small files durable for many goroutines at
// once. A disk does a few thousand fsyncs a second, however small the files are;
// so where many wait, one syncfs(2) serves them all. The files must lie in one
// file system.
type fileSync struct {
	turn chan struct{}

	mu     sync.Mutex // guards what follows
	gather *fileBatch
}

// fileBatch is what one turn makes durable.
type fileBatch struct {
	files []*os.File
	done  chan struct{} // closed when err is final
	err   error
}

// manyFiles is from how many files on one syncfs pays. It also waits for what
// other processes have written to the file system, but so do their own syncs.
const manyFiles = 2

func newFileSync() *fileSync {
	return &fileSync{turn: make(chan struct{}, 1), gather: &fileBatch{done: make(chan struct{})}}
}

// sync returns when the files' contents are durable.
func (s *fileSync) sync(files ...*os.File) error {
	s.mu.Lock()
	b := s.gather
	b.files = append(b.files, files...)
	s.mu.Unlock()
	select {
	case <-b.done:
	case s.turn <- struct{}{}:
		s.commit(b)
		<-s.turn
	}
	return b.err
}

// commit syncs a batch's files, unless that was done already.
func (s *fileSync) commit(b *fileBatch) {
	s.mu.Lock()
	if s.gather != b {
		s.mu.Unlock()
		return
	}
	s.gather = &fileBatch{done: make(chan struct{})}
	s.mu.Unlock()
	defer close(b.done)
	if len(b.files) >= manyFiles && syncsWhole(b.files[0]) {
		b.err = os.NewSyscallError("syncfs", unix.Syncfs(int(b.files[0].Fd())))
		return
	}
	for _, f := range b.files {
		b.err = errors.Join(b.err, f.Sync())
	}
}

// syncsWhole reports whether syncfs on the file's file system waits for the
// data and reports errors of writing, as it does on local ones since Linux 5.8.
func syncsWhole(f *os.File) bool {
	var info unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &info); err != nil {
		return false
	}
	return slices.Contains([]int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC}, int64(info.Type)) //nolint:unconvert // it is an int32 on other architectures
}
