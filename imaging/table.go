package imaging

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The kinds of partition tables.
const (
	TableMBR  = "mbr"
	TableGPT  = "gpt"
	TableNone = "none" // the image is one file system
)

// Partition is one entry of a partition table.
type Partition struct {
	Number   int    `json:"number"`   // as the kernel counts: /dev/mmcblk0p4 is 4
	Offset   int64  `json:"offset"`   // bytes from the start of the image
	Bytes    int64  `json:"bytes"`    // length
	Type     string `json:"type"`     // MBR: "0x83"; GPT: the type's GUID, lower case
	Label    string `json:"label"`    // the partition's name in a GPT
	PARTUUID string `json:"partuuid"` // as in the kernel's root=PARTUUID=

	FileSystem string `json:"file_system"` // "ext4", "vfat", ..; empty if unknown
	FSLabel    string `json:"fs_label"`
	FSUUID     string `json:"fs_uuid"`

	extFlaw error // why what has the signature of ext2/3/4 is not counted as that
}

// Table is an image's partition table.
type Table struct {
	Kind       string      `json:"kind"`
	ID         string      `json:"id,omitempty"` // the disk's signature: MBR 8 hexadecimal digits, GPT a GUID
	SectorSize int         `json:"sector_size"`  // bytes
	Partitions []Partition `json:"partitions"`   // without containers of logical partitions
}

// errNoTable says that there is neither an MBR nor a GPT.
var errNoTable = errors.New("no partition table")

// readTable reads the partition table of an image of size bytes. sector is 512,
// 4096 or 0 for finding out. All that the table claims is checked against the
// image's length, so that whoever uses the table reads no byte outside.
func readTable(r io.ReaderAt, size int64, sector int) (*Table, error) {
	switch sector {
	case 0:
		return detectTable(r, size)
	case 512, 4096:
		return readTableOf(r, size, sector)
	}
	return nil, refuse("Use 512 or 4096, or leave it out.", "a sector size of %d bytes is unknown", sector)
}

// detectTable prefers 512-byte sectors. An MBR does not say its unit, so one
// that shows no known file system is read again with 4096.
func detectTable(r io.ReaderAt, size int64) (*Table, error) {
	small, errSmall := readTableOf(r, size, 512)
	if errSmall == nil && (small.Kind != TableMBR || small.known() > 0) {
		return small, nil
	}
	large, err := readTableOf(r, size, 4096)
	if err != nil || large.Kind == TableNone || errSmall == nil && large.known() == 0 {
		return small, errSmall
	}
	return large, nil
}

func readTableOf(r io.ReaderAt, size int64, sector int) (*Table, error) {
	t, err := readAnyTable(r, size, int64(sector))
	if err != nil {
		return nil, err
	}
	t.SectorSize = sector
	if err := t.check(size); err != nil {
		return nil, err
	}
	for i := range t.Partitions {
		probe(r, &t.Partitions[i])
	}
	return t, nil
}

// readAnyTable goes by the boot record as the kernel does: a GPT counts only
// behind a protective entry.
func readAnyTable(r io.ReaderAt, size, sector int64) (*Table, error) {
	entries, _, err := readMBRSector(r, size, 0)
	if err != nil && !errors.Is(err, errNoTable) {
		return nil, err
	}
	for _, e := range entries {
		if e.kind == mbrProtective {
			return readGPT(r, size, sector)
		}
	}
	t, err := readMBR(r, size, sector)
	if !errors.Is(err, errNoTable) {
		return t, err
	}
	if header, err := readGPTHeader(r, size, sector, 1); err != nil || header != nil {
		return nil, damagedGPT("its protective MBR is missing")
	}
	return readBare(r, size)
}

// readBare takes an image that has a known file system at its start for one
// partition.
func readBare(r io.ReaderAt, size int64) (*Table, error) {
	p := Partition{Number: 1, Bytes: size}
	probe(r, &p)
	if p.FileSystem == "" {
		return nil, &Error{Err: errNoTable, Remedy: "Is it a raw disk image? Compressed ones end in .gz, .xz or .zst; .mender artifacts are not disk images."}
	}
	return &Table{Kind: TableNone, Partitions: []Partition{p}}, nil
}

// known counts the partitions with a known file system.
func (t *Table) known() int {
	n := 0
	for _, p := range t.Partitions {
		if p.FileSystem != "" {
			n++
		}
	}
	return n
}

// check refuses partitions that overlap or lie outside the image.
func (t *Table) check(size int64) error {
	byStart := slices.Clone(t.Partitions)
	slices.SortFunc(byStart, func(a, b Partition) int { return byOffset(Extent{Offset: a.Offset}, Extent{Offset: b.Offset}) })
	for i, p := range byStart {
		if p.Offset < 0 || p.Bytes <= 0 || p.Offset > size || p.Bytes > size-p.Offset {
			return refuse("The image may be cut off; copy it again and compare its checksum.",
				"partition %d (%d bytes at %d) does not lie within the image's %d bytes", p.Number, p.Bytes, p.Offset, size)
		}
		if i > 0 && p.Offset < byStart[i-1].Offset+byStart[i-1].Bytes {
			return refuse("Repair the partition table with sfdisk or sgdisk.",
				"partitions %d and %d overlap", byStart[i-1].Number, p.Number)
		}
	}
	return nil
}

// list describes the partitions in one line, for messages.
func (t *Table) list() string {
	if len(t.Partitions) == 0 {
		return "none"
	}
	var out []string
	for _, p := range t.Partitions {
		words := []string{fmt.Sprintf("%d:", p.Number)}
		if p.FileSystem == "" {
			words = append(words, "unknown")
		} else {
			words = append(words, p.FileSystem)
		}
		for _, label := range []string{p.Label, p.FSLabel} {
			if label != "" {
				words = append(words, fmt.Sprintf("%q", label))
				break
			}
		}
		out = append(out, strings.Join(append(words, fmt.Sprintf("%d MiB", p.Bytes>>20)), " "))
	}
	return strings.Join(out, ", ")
}

// readFull reads len(p) bytes at off, or fails.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
