package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
)

// GoldenOptions say how a golden image is read.
type GoldenOptions struct {
	// CacheDir keeps hashes of images between runs, and unpacked images; it is
	// made with mode 0700. Empty: nothing is kept.
	CacheDir string
	// Partition is the data partition: a number, a label or a PARTUUID. Empty:
	// found as the documentation of Golden.Data says.
	Partition string
	// SectorSize is 512 or 4096 bytes; 0 means that it is found out.
	SectorSize int
}

// Golden is an open golden image. It is safe for use by many goroutines.
type Golden struct {
}

var errSoon = errors.New("imaging: this is not there yet")

// OpenGolden opens the image at path, reads its partition table, finds the data
// partition and hashes the whole.
func OpenGolden(ctx context.Context, path string, opt GoldenOptions) (*Golden, error) {
	return nil, errSoon
}

// Path returns the path of the raw image.
func (g *Golden) Path() string { return "" }

// SHA256 returns the hash of the whole raw image.
func (g *Golden) SHA256() [sha256.Size]byte { return [sha256.Size]byte{} }

// Size returns the image's length in bytes.
func (g *Golden) Size() int64 { return 0 }

// ReadAt implements io.ReaderAt.
func (g *Golden) ReadAt(p []byte, off int64) (int, error) { return 0, errSoon }

// Unchanged returns an error if the file is no longer the one that was opened:
// another inode, length, or time of change. It costs one stat.
func (g *Golden) Unchanged() error { return errSoon }

// Close closes the image.
func (g *Golden) Close() error { return nil }
