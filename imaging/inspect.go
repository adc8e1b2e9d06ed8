package imaging

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// Inspection is what an image shows of itself.
type Inspection struct {
	Bytes int64  `json:"bytes"`
	Table *Table `json:"table"`
	// Data is the number of the data partition, 0 if none shows itself as such.
	// DataReason says why.
	Data       int        `json:"data_partition"`
	DataReason string     `json:"data_reason,omitempty"`
	Volumes    []Volume   `json:"volumes"` // one for each partition
	Files      []FileInfo `json:"files"`   // one for each path that was asked for
}

// Volume is the state of a partition's file system.
type Volume struct {
	Partition int    `json:"partition"`
	BlockSize int64  `json:"block_size,omitempty"` // bytes; 0 if unknown
	Blocks    int64  `json:"blocks,omitempty"`
	Free      int64  `json:"free_bytes"`      // -1 if unknown
	State     string `json:"state,omitempty"` // "clean", "journal needs replay", "has errors"
	Injection string `json:"injection"`       // "ok", or why no files can be put here
}

// FileInfo is what stands at a path.
type FileInfo struct {
	Path   string `json:"path"`
	Exists bool   `json:"exists"`
	Kind   string `json:"kind,omitempty"` // "file", "directory", "symlink", "other"
	Mode   string `json:"mode,omitempty"` // permission bits in octal: "0600"
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Bytes  int64  `json:"bytes"`
	Link   string `json:"link,omitempty"`
	Blocks []Span `json:"blocks,omitempty"` // where the content lies, in bytes of the image
}

// Inspect reads partition table and file systems of an image of size bytes,
// and looks up paths, which are written as in Target.Path. A path that does not
// exist is no error; one that cannot be looked up is.
func Inspect(r io.ReaderAt, size int64, opt GoldenOptions, paths ...string) (*Inspection, error) {
	table, err := readTable(r, size, opt.SectorSize)
	if err != nil {
		return nil, err
	}
	out := &Inspection{Bytes: size, Table: table}
	data, reason, err := findData(r, table, opt.Partition)
	switch {
	case err == nil:
		out.Data, out.DataReason = table.Partitions[data].Number, reason
	case opt.Partition != "":
		return nil, err
	default:
		out.DataReason = err.Error()
	}
	for i := range table.Partitions {
		out.Volumes = append(out.Volumes, inspectVolume(r, &table.Partitions[i]))
	}
	for _, path := range paths {
		info, err := inspectFile(r, out, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out.Files = append(out.Files, *info)
	}
	return out, nil
}

func inspectVolume(r io.ReaderAt, p *Partition) Volume {
	v := Volume{Partition: p.Number, Free: -1, Injection: "ok"}
	if _, err := newFilesystem(nil, p, "", nil, nil); err != nil {
		v.Injection = err.Error()
	}
	if !strings.HasPrefix(p.FileSystem, "ext") {
		return v
	}
	fs, err := openExt(r, p.Offset, p.Bytes)
	if err != nil {
		v.Injection = err.Error()
		return v
	}
	v.BlockSize, v.Blocks, v.Free = fs.sb.blockSize, fs.sb.blocks, fs.sb.freeBlocks*fs.sb.blockSize
	switch {
	case fs.sb.incompat&incompatRecover != 0:
		v.State = "journal needs replay"
	case fs.sb.state&1 == 0 || fs.sb.state&2 != 0:
		v.State = "has errors"
	default:
		v.State = "clean"
	}
	return v
}

// inspectFile looks up one path.
func inspectFile(r io.ReaderAt, in *Inspection, path string) (*FileInfo, error) {
	place, err := parsePlace(path)
	if err != nil {
		return nil, err
	}
	number, mount := place.partition, ""
	if number == 0 {
		number = in.Data
	}
	if number == in.Data {
		mount = dataMount
	}
	i, n := matching(in.Table, func(p *Partition) bool { return p.Number == number })
	if n == 0 && place.partition == 0 {
		return nil, errors.New(in.DataReason)
	}
	if n == 0 {
		return nil, refuse("Use one of these numbers.", "there is no partition %d; there are: %s", number, in.Table.list())
	}
	p := &in.Table.Partitions[i]
	info, err := lookUp(r, p, place.path, mount)
	if errors.Is(err, fs.ErrNotExist) {
		return &FileInfo{Path: path}, nil
	}
	if err != nil {
		return nil, err
	}
	info.Path, info.Exists = path, true
	for k := range info.Blocks {
		info.Blocks[k].Offset += p.Offset
	}
	return info, nil
}

// lookUp returns what stands at a path of a partition, fs.ErrNotExist if there
// is nothing. Offsets are those in the partition.
func lookUp(r io.ReaderAt, p *Partition, path, mount string) (*FileInfo, error) {
	switch p.FileSystem {
	case "ext2", "ext3", "ext4":
		ext, err := openExt(r, p.Offset, p.Bytes)
		if err != nil {
			return nil, err
		}
		node, err := ext.find(path, mount)
		if err != nil {
			return nil, err
		}
		return ext.info(node)
	case "vfat":
		fat, err := openFAT(r, p.Offset, p.Bytes)
		if err != nil {
			return nil, err
		}
		e, _, err := fat.find(path)
		if err != nil {
			return nil, err
		}
		if e.dir {
			return &FileInfo{Kind: "directory"}, nil
		}
		spans, err := fat.chain(e.cluster, (e.size()+fat.clusterSize-1)/fat.clusterSize)
		return &FileInfo{Kind: "file", Bytes: e.size(), Blocks: trimSpans(spans, e.size())}, err
	}
	return nil, fmt.Errorf("files on partition %d (%s) cannot be looked up", p.Number, p.FileSystem)
}

// info describes an inode.
func (f *extFS) info(n *extInode) (*FileInfo, error) {
	info := &FileInfo{Kind: "other", Mode: fmt.Sprintf("%04o", n.mode()&0o7777),
		UID: n.uid(), GID: n.gid(), Bytes: n.size()}
	switch n.kind() {
	case modeRegular:
		info.Kind = "file"
	case modeDir:
		info.Kind = "directory"
		return info, nil
	case modeSymlink:
		info.Kind = "symlink"
		target, err := f.content(n, 65536)
		info.Link = string(target)
		return info, err
	default:
		return info, nil
	}
	spans, err := f.spans(n, n.size())
	info.Blocks = trimSpans(spans, n.size())
	return info, err
}

// spans returns where the first bytes of a file lie, as offsets in the file
// system; holes are left out.
func (f *extFS) spans(n *extInode, length int64) ([]Span, error) {
	if n.flags()&flagInline != 0 {
		spans, err := inlineSpans(n)
		for k := range spans {
			spans[k].Offset += n.offset
		}
		return spans, err
	}
	runs, err := f.runs(n, (length+f.sb.blockSize-1)/f.sb.blockSize)
	out := make([]Span, 0, len(runs))
	for _, r := range runs {
		out = append(out, Span{r.physical * f.sb.blockSize, r.count * f.sb.blockSize})
	}
	return out, err
}
