package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// fatFS reads FAT12, FAT16 and FAT32 (Microsoft's fatgen103, "FAT: General
// Overview of On-Disk Format"). It reads only within the partition.
type fatFS struct {
	r             io.ReaderAt
	base, size    int64 // the partition in r
	bits          int   // 12, 16 or 32
	table         int64 // offset of the first FAT
	tableBytes    int64
	root, rootLen int64 // region of the root directory; FAT12 and FAT16
	rootCluster   int64 // FAT32
	data          int64 // offset of cluster 2
	clusterSize   int64
	clusters      int64
}

func openFAT(r io.ReaderAt, base, size int64) (*fatFS, error) {
	b := make([]byte, 512)
	if size < int64(len(b)) {
		return nil, errors.New("the partition is too small for FAT")
	}
	if err := readFull(r, b, base); err != nil {
		return nil, fmt.Errorf("read the boot sector: %w", err)
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	first := func(a, b int64) int64 {
		if a != 0 {
			return a
		}
		return b
	}
	sector, perCluster, tables := u16(11), int64(b[13]), int64(b[16])
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || perCluster == 0 || tables == 0 || u16(14) == 0 {
		return nil, errors.New("the boot sector is impossible")
	}
	tableSectors, total := first(u16(22), u32(36)), first(u16(19), u32(32))
	f := &fatFS{r: r, base: base, size: min(size, total*sector), table: u16(14) * sector,
		tableBytes: tableSectors * sector, clusterSize: perCluster * sector, rootLen: u16(17) * fatEntry}
	f.root = f.table + tables*f.tableBytes
	f.data = f.root + (f.rootLen+sector-1)/sector*sector
	if f.data > f.size || total*sector > size {
		return nil, errors.New("the boot sector describes more than the partition holds")
	}
	f.clusters = (f.size - f.data) / f.clusterSize
	switch { // as Linux does: small FAT32 file systems are common on boot partitions
	case u16(22) == 0:
		f.bits, f.rootCluster = 32, u32(44)
	case f.clusters < 4085:
		f.bits = 12
	default:
		f.bits = 16
	}
	if (f.clusters+2)*int64(f.bits)/8 > f.tableBytes {
		return nil, errors.New("the file allocation table is too short")
	}
	return f, nil
}

func (f *fatFS) read(p []byte, off int64) error {
	if off < 0 || off > f.size-int64(len(p)) {
		return fmt.Errorf("the file system points outside itself (byte %d)", off)
	}
	return readFull(f.r, p, f.base+off)
}

// next returns the cluster that follows, 0 at the end of the chain.
func (f *fatFS) next(cluster int64) (int64, error) {
	b := make([]byte, 4)
	width := 4
	if f.bits < 32 {
		width = 2
	}
	if err := f.read(b[:width], f.table+cluster*int64(f.bits)/8); err != nil {
		return 0, err
	}
	n := int64(binary.LittleEndian.Uint32(b))
	switch {
	case f.bits == 12 && cluster&1 == 1:
		n >>= 4
	case f.bits == 12:
		n &= 0xFFF
	case f.bits == 32:
		n &= 0x0FFFFFFF
	}
	if n >= 1<<min(f.bits, 28)-8 {
		return 0, nil
	}
	return n, nil
}

// chain returns where a file's clusters lie, at most limit of them.
func (f *fatFS) chain(first, limit int64) ([]Span, error) {
	var out []Span
	for cluster, n := first, int64(0); cluster != 0 && n < limit; n++ {
		if cluster < 2 || cluster >= f.clusters+2 || n > f.clusters {
			return nil, errors.New("a chain of clusters is damaged")
		}
		at := f.data + (cluster-2)*f.clusterSize
		if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == at {
			out[k].Length += f.clusterSize
		} else {
			out = append(out, Span{at, f.clusterSize})
		}
		var err error
		if cluster, err = f.next(cluster); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fatFile is a directory entry.
type fatFile struct {
	offset  int64 // of the entry, from the start of the file system
	raw     [fatEntry]byte
	cluster int64 // 0: empty, or the root of FAT12 and FAT16
	dir     bool
}

func (e *fatFile) size() int64 { return int64(binary.LittleEndian.Uint32(e.raw[fatSize:])) }

// Attributes of a directory entry.
const (
	fatVolumeID  = 0x08
	fatDirectory = 0x10
	fatLongName  = 0x0F
)

// maxFATDir bounds a directory; FAT allows 65,536 entries.
const maxFATDir = 65536 * fatEntry

// find returns the entry at a path, fs.ErrNotExist if there is none, and how
// many of the path's parts exist. Names differ not by case alone.
func (f *fatFS) find(name string) (*fatFile, int, error) {
	at := &fatFile{cluster: f.rootCluster, dir: true}
	for depth, part := range splitPath(name) {
		if !at.dir {
			return nil, depth, fmt.Errorf("%s: a part of the path is a file", name)
		}
		next, err := f.child(at, part)
		if err != nil {
			return nil, depth, err
		}
		at = next
	}
	return at, len(splitPath(name)), nil
}

func (f *fatFS) child(dir *fatFile, name string) (*fatFile, error) {
	spans := []Span{{f.root, f.rootLen}}
	if dir.cluster != 0 {
		var err error
		if spans, err = f.chain(dir.cluster, maxFATDir/f.clusterSize+1); err != nil {
			return nil, err
		}
	}
	var long longName
	for _, s := range spans {
		b := make([]byte, s.Length)
		if err := f.read(b, s.Offset); err != nil {
			return nil, err
		}
		for i := 0; i+fatEntry <= len(b); i += fatEntry {
			e := b[i : i+fatEntry]
			switch {
			case e[0] == 0:
				return nil, fs.ErrNotExist
			case e[0] == 0xE5:
				long = longName{}
			case e[11]&0x3F == fatLongName:
				long.add(e)
			case e[11]&fatVolumeID == 0 && (strings.EqualFold(shortName(e), name) || strings.EqualFold(long.String(), name)):
				found := &fatFile{offset: s.Offset + int64(i), dir: e[11]&fatDirectory != 0}
				found.cluster = int64(binary.LittleEndian.Uint16(e[26:]))
				if f.bits == 32 {
					found.cluster |= int64(binary.LittleEndian.Uint16(e[20:])) << 16
				}
				copy(found.raw[:], e)
				return found, nil
			default:
				long = longName{}
			}
		}
	}
	return nil, fs.ErrNotExist
}

// shortName is the 8.3 name of an entry.
func shortName(e []byte) string {
	base, extension := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if extension == "" {
		return base
	}
	return base + "." + extension
}

// longName collects the entries of a long name, which come last part first.
type longName struct{ units []uint16 }

func (l *longName) add(e []byte) {
	if e[0]&0x40 != 0 {
		l.units = nil
	}
	var part []uint16
	for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := r[0]; i < r[1]; i += 2 {
			if c := binary.LittleEndian.Uint16(e[i:]); c != 0 && c != 0xFFFF {
				part = append(part, c)
			}
		}
	}
	if len(l.units) < 260 {
		l.units = append(part, l.units...)
	}
}

func (l *longName) String() string { return string(utf16.Decode(l.units)) }

// content reads a file of at most limit bytes.
func (f *fatFS) content(e *fatFile, limit int64) ([]byte, error) {
	size := e.size()
	if size > min(limit, f.size) {
		return nil, fmt.Errorf("the file has %d bytes, more than %d", size, limit)
	}
	spans, err := f.chain(e.cluster, (size+f.clusterSize-1)/f.clusterSize)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, size)
	for _, s := range trimSpans(spans, size) {
		b := make([]byte, s.Length)
		if err := f.read(b, s.Offset); err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	if int64(len(out)) < size {
		return nil, errors.New("a chain of clusters is damaged")
	}
	return out, nil
}
