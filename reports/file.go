package reports

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// bundleDir is the folder that an export writes. Several files may be under way at
// the same time.
type bundleDir struct {
	dir     string
	discard bool // only hashes are wanted: files are not kept

	mu    sync.Mutex
	files []File // that are complete; guarded by mu
}

// outFile is a buffered file of a bundle, 0600. Close makes it durable and notes
// its hash, which is taken of what is written, so that nothing is read again.
type outFile struct {
	*bufio.Writer
	file   *os.File
	bundle *bundleDir
	name   string
	hash   hash.Hash
	bytes  int64
}

// create makes a new file, by its slash-separated name, and the folders above it.
func (b *bundleDir) create(name string) (*outFile, error) {
	if b.discard {
		o := &outFile{bundle: b, name: name, hash: sha256.New()}
		o.Writer = bufio.NewWriterSize(writeFunc(o.through), 256<<10)
		return o, nil
	}
	path := filepath.Join(b.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	o := &outFile{file: f, bundle: b, name: name, hash: sha256.New()}
	o.Writer = bufio.NewWriterSize(writeFunc(o.through), 256<<10)
	return o, nil
}

// write writes a whole small file.
func (b *bundleDir) write(name string, data []byte) error {
	f, err := b.create(name)
	if err != nil {
		return err
	}
	defer f.Abort()
	_, _ = f.Write(data) // a bufio.Writer keeps its error
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// list returns the complete files as a walk through the folder meets them:
// ordered by the parts of their names.
func (b *bundleDir) list() []File {
	b.mu.Lock()
	defer b.mu.Unlock()
	files := slices.Clone(b.files)
	slices.SortFunc(files, func(x, y File) int {
		return slices.Compare(strings.Split(x.Name, "/"), strings.Split(y.Name, "/"))
	})
	return files
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// through is where the buffer is emptied.
func (o *outFile) through(p []byte) (int, error) {
	n, err := len(p), error(nil)
	if o.file != nil {
		n, err = o.file.Write(p)
	}
	o.hash.Write(p[:n])
	o.bytes += int64(n)
	return n, err
}

// Close flushes, syncs and closes.
func (o *outFile) Close() error {
	defer o.Abort()
	if err := o.Flush(); err != nil {
		return err
	}
	if o.file != nil {
		if err := o.file.Sync(); err != nil {
			return err
		}
	}
	o.bundle.mu.Lock()
	o.bundle.files = append(o.bundle.files, File{o.name, o.bytes, hex.EncodeToString(o.hash.Sum(nil))})
	o.bundle.mu.Unlock()
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// Abort closes without caring what was written; after Close it does nothing.
func (o *outFile) Abort() {
	if o.file != nil {
		_ = o.file.Close()
	}
}
