package imaging

import (
	"errors"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// syncGroup lets many goroutines share the disk's syncs: whoever gets the turn
// syncs for all that have gathered meanwhile.
type syncGroup[T any] struct {
	commit func(all []T) error
	turn   chan struct{}

	mu     sync.Mutex // guards what follows
	gather *syncBatch[T]
}

// syncBatch is what one turn makes durable.
type syncBatch[T any] struct {
	all  []T
	done chan struct{} // closed when err is final
	err  error
}

func newSyncGroup[T any](commit func(all []T) error) *syncGroup[T] {
	return &syncGroup[T]{commit: commit, turn: make(chan struct{}, 1), gather: &syncBatch[T]{done: make(chan struct{})}}
}

// sync returns when what it is given is durable.
func (s *syncGroup[T]) sync(some ...T) error {
	s.mu.Lock()
	b := s.gather
	b.all = append(b.all, some...)
	s.mu.Unlock()
	select {
	case <-b.done:
	case s.turn <- struct{}{}:
		s.take(b)
		<-s.turn
	}
	return b.err
}

// take commits a batch, unless that was done already.
func (s *syncGroup[T]) take(b *syncBatch[T]) {
	s.mu.Lock()
	if s.gather != b {
		s.mu.Unlock()
		return
	}
	s.gather = &syncBatch[T]{done: make(chan struct{})}
	s.mu.Unlock()
	b.err = s.commit(b.all)
	close(b.done)
}

// folderSync makes the names in folders durable.
type folderSync struct{ *syncGroup[string] }

func newFolderSync() *folderSync { return &folderSync{newSyncGroup(syncFolders)} }

func syncFolders(dirs []string) error {
	slices.Sort(dirs)
	var errs []error
	for _, dir := range slices.Compact(dirs) {
		errs = append(errs, syncDir(dir))
	}
	return errors.Join(errs...)
}

// fileSync makes the contents of small files durable, which lie in one file
// system.
type fileSync struct{ *syncGroup[*os.File] }

func newFileSync() *fileSync { return &fileSync{newSyncGroup(syncFiles)} }

// syncFiles syncs several files by one syncfs(2): a disk does a few thousand
// fsyncs a second, however small the files are. It also waits for what other
// processes have written to the file system, but so do their own syncs.
func syncFiles(files []*os.File) error {
	if len(files) > 1 && syncsWhole(files[0]) {
		return os.NewSyscallError("syncfs", unix.Syncfs(int(files[0].Fd())))
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Sync())
	}
	return errors.Join(errs...)
}

// syncsWhole reports whether syncfs on the file's file system waits for the
// data and reports errors of writing, as it does on local ones since Linux 5.8.
func syncsWhole(f *os.File) bool {
	var info unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &info); err != nil {
		return false
	}
	kind := int64(info.Type) //nolint:unconvert // it is an int32 on other architectures
	return slices.Contains([]int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC}, kind)
}
