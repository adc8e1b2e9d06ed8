package reports

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// outFile is a buffered file of a bundle, 0600, made durable by Close.
type outFile struct {
	*bufio.Writer
	f *os.File
}

// createFile makes a new file below dir, and the folders above it.
func createFile(dir, name string) (*outFile, error) {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &outFile{bufio.NewWriterSize(f, 256<<10), f}, nil
}

// Close flushes, syncs and closes.
func (o *outFile) Close() error {
	defer o.f.Close()
	if err := o.Flush(); err != nil {
		return err
	}
	if err := o.f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: a device, as /dev/null is
		return err
	}
	return o.f.Close()
}

// Abort closes without caring what was written; after Close it does nothing.
func (o *outFile) Abort() { _ = o.f.Close() }

// writeFile writes a whole small file below dir.
func writeFile(dir, name string, data []byte) error {
	f, err := createFile(dir, name)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Abort()
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
