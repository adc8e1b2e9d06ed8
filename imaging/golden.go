package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// GoldenOptions say how a golden image is read.
type GoldenOptions struct {
	// CacheDir keeps hashes of images between runs, and unpacked images; it is
	// made with mode 0700. Empty: nothing is kept.
	CacheDir string
	// Partition is the data partition: a number, a label or a PARTUUID. Empty:
	// found as Golden.Data says.
	Partition string
	// SectorSize is 512 or 4096 bytes; 0 means that it is found out.
	SectorSize int
	// Progress is told how far the step "unpack" or "hash" is, in bytes of the file
	// that is read; it may be nil.
	Progress func(step string, done, total int64)
}

// Golden is an open golden image. It is safe for use by many goroutines.
type Golden struct {
	path  string
	file  *os.File
	state fileState
	sum   [sha256.Size]byte
	table *Table
	data  int // index of the data partition; -1: see why

	reason string // why that partition
	named  bool   // a person named it
	why    error

	blockMap *blockMap // golden's own; nil: there is none

	matterMu    sync.Mutex // guards what follows
	matterKnown bool
	matterSpans []Span
	proved      bool // the hash was computed from the file by this process
}

// fileState is what tells a file from another one, and from itself changed.
type fileState struct {
	device, inode uint64
	size          int64
	modified      syscall.Timespec
	changed       syscall.Timespec
}

func stateOf(info os.FileInfo) (fileState, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileState{}, errors.New("this system does not number its files")
	}
	return fileState{stat.Dev, stat.Ino, info.Size(), stat.Mtim, stat.Ctim}, nil
}

// OpenGolden opens the image at path, reads its partition table, finds the
// data partition and hashes the whole. An image compressed with gzip, xz, zstd or
// bzip2 is unpacked into the cache first, once. An image without a data partition is
// accepted as long as nothing asks for that partition.
func OpenGolden(ctx context.Context, path string, opt GoldenOptions) (*Golden, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, &Error{Remedy: "Set image.golden to the image that every device of the lot shares.", Err: err}
	}
	if !info.Mode().IsRegular() {
		return nil, refuse("Copy it to a file first.", "golden image %s: not a regular file", path)
	}
	raw, err := unpacked(ctx, path, opt)
	if err != nil {
		return nil, fmt.Errorf("golden image %s: %w", path, err)
	}
	file, err := os.Open(raw)
	if err != nil {
		return nil, fmt.Errorf("golden image %s: %w", path, err)
	}
	g := &Golden{path: raw, file: file, data: -1}
	err = g.open(ctx, opt)
	if err == nil {
		g.blockMap, err = findBlockMap(path, g.state.size)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("golden image %s: %w", path, err)
	}
	return g, nil
}

func (g *Golden) open(ctx context.Context, opt GoldenOptions) error {
	info, err := g.file.Stat()
	if err != nil {
		return err
	}
	if g.state, err = stateOf(info); err != nil {
		return err
	}
	if g.table, err = readTable(g.file, g.state.size, opt.SectorSize); err != nil {
		return err
	}
	if err := refuseRootAlone(g.file, g.table); err != nil {
		return err
	}
	g.named = opt.Partition != ""
	g.data, g.reason, g.why = findData(g.file, g.table, opt.Partition)
	if opt.Partition != "" && g.why != nil {
		return g.why
	}
	if g.sum, g.proved, err = cachedSum(ctx, g.path, g.state, opt); err != nil {
		return err
	}
	return g.Unchanged()
}

// Prove reads the whole image and compares its hash, once: what OpenGolden took
// from the cache was true when it was put there, and says nothing of a disk that
// has lost bits since. The file's later changes show in Unchanged.
func (g *Golden) Prove(ctx context.Context) error {
	g.matterMu.Lock()
	defer g.matterMu.Unlock()
	if g.proved {
		return nil
	}
	sum, err := sumFile(ctx, g.path, g.state.size, nil)
	if err != nil {
		return err
	}
	if sum != g.sum {
		return goldenRotted(g.path)
	}
	g.proved = true
	return g.Unchanged()
}

// goldenRotted is the error where golden reads otherwise than when it was hashed.
func goldenRotted(path string) error {
	return refuse("Check the disk, and put the golden image back from where it came from; an unpacked one is in the cache folder and is made anew when it is removed.",
		"the golden image %s reads otherwise than when it was hashed, although nobody wrote to it", path)
}

// findData returns the index of the data partition and why it is that; see
// Golden.Data.
func findData(r io.ReaderAt, t *Table, setting string) (index int, reason string, err error) {
	if setting != "" {
		index, err = namedPartition(t, setting)
		return index, "image.partition says so", err
	}
	return gatherEvidence(r, t).decide()
}

func matching(t *Table, is func(*Partition) bool) (index, count int) {
	for i := range t.Partitions {
		if is(&t.Partitions[i]) {
			index = i
			count++
		}
	}
	return index, count
}

// namedPartition finds a partition by number, label or PARTUUID.
func namedPartition(t *Table, setting string) (int, error) {
	number, err := strconv.Atoi(setting)
	if err != nil {
		number = -1
	}
	i, n := matching(t, func(p *Partition) bool { return p.Number == number })
	if n == 0 {
		i, n = matching(t, func(p *Partition) bool {
			return p.Label == setting || p.FSLabel == setting || strings.EqualFold(p.PARTUUID, setting)
		})
	}
	switch n {
	case 1:
		return i, nil
	case 0:
		return -1, refuse("Set image.partition to the number, label or PARTUUID of one of them.",
			"there is no partition %q; there are: %s", setting, t.list())
	}
	return -1, refuse("Set image.partition to the number or PARTUUID instead.",
		"%d partitions are called %q; there are: %s", n, setting, t.list())
}

// Path returns the path of the raw image.
func (g *Golden) Path() string { return g.path }

// SHA256 returns the hash of the whole raw image.
func (g *Golden) SHA256() [sha256.Size]byte { return g.sum }

// Size returns the image's length in bytes.
func (g *Golden) Size() int64 { return g.state.size }

// Table returns the partition table.
func (g *Golden) Table() *Table { return g.table }

// refuseRootAlone refuses a root file system without a disk around it.
func refuseRootAlone(r io.ReaderAt, t *Table) error {
	if t.Kind != TableNone || !strings.HasPrefix(t.Partitions[0].FileSystem, "ext") {
		return nil
	}
	fs, err := openExt(r, 0, t.Partitions[0].Bytes)
	if err != nil || !fs.isRoot() {
		return nil //nolint:nilerr // what cannot be read is judged where files are put into it
	}
	return refuse("Take the whole disk's image: .sdimg, .uefiimg, .wic or .img, with partitions.",
		"this is a root file system alone, not the image of a disk: a key in it would lie below the data partition's mount point")
}

// DataReason says why Data returns the partition that it returns.
func (g *Golden) DataReason() string { return g.reason }

// Data returns the data partition: the one that GoldenOptions names, else the one
// that the image itself shows as such: by the label "data", by the folder /mender,
// by a root file system's fstab. Only where none of these is there, it is number 4
// of exactly 4. What contradicts itself is refused; the error lists the partitions.
func (g *Golden) Data() (*Partition, error) {
	if g.why != nil {
		return nil, g.why
	}
	return &g.table.Partitions[g.data], nil
}

// partition returns a partition by number, 0 for the data partition.
func (g *Golden) partition(number int) (*Partition, error) {
	if number == 0 {
		return g.Data()
	}
	i, n := matching(g.table, func(p *Partition) bool { return p.Number == number })
	if n == 0 {
		return nil, refuse("Use one of these numbers.", "there is no partition %d; there are: %s", number, g.table.list())
	}
	return &g.table.Partitions[i], nil
}

// ReadAt implements io.ReaderAt.
func (g *Golden) ReadAt(p []byte, off int64) (int, error) { return g.file.ReadAt(p, off) }

// Unchanged returns an error if the file at Path is no longer the one that was
// hashed: another inode, length, or time of change. It costs one stat.
func (g *Golden) Unchanged() error {
	const remedy = "Start again; a lot that was begun with another golden image is refused."
	info, err := os.Stat(g.path)
	if err != nil {
		return &Error{Message: "the golden image is gone", Remedy: remedy, Err: err}
	}
	if now, err := stateOf(info); err != nil || now != g.state {
		return refuse(remedy, "the golden image %s was changed while it was in use", g.path)
	}
	return nil
}

// Close closes the image.
func (g *Golden) Close() error { return g.file.Close() }
