package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// newFilesystem returns how files get into the partition, or says why they
// cannot.
func newFilesystem(t *tools, p *Partition, mount string, covered []string, files []volumeFile) (filesystem, error) {
	switch p.FileSystem {
	case "ext2", "ext3", "ext4":
		return &extVolume{tools: t, partition: p, mount: mount, covered: covered, files: files}, nil
	case "vfat":
		return &fatVolume{tools: t, partition: p, files: files}, nil
	case "f2fs":
		return &f2fsVolume{tools: t, partition: p, files: files}, nil
	case "":
		if p.extFlaw != nil {
			return nil, refuse("Look at it with dumpe2fs -h; an image or a partition that was cut short shows so.",
				"its ext2/3/4 file system cannot be used: %w", p.extFlaw)
		}
		return nil, refuse("Set image.partition to a partition with ext4.", "it holds no known file system")
	}
	reason, ok := unpatchable[p.FileSystem]
	if !ok {
		reason = "files cannot be put into " + p.FileSystem
	}
	return nil, refuse("Use ext4 for the partition that gets the files (vfat, and f2fs with a placeholder file, work too).", "%s", reason)
}

// unpatchable says for file systems why they cannot be patched in some blocks.
var unpatchable = map[string]string{
	"btrfs":    "btrfs keeps checksums of all data in trees, so that a patched block reads as damage",
	"xfs":      "no tool writes files into an xfs image without mounting it",
	"squashfs": "squashfs is compressed and read-only",
	"erofs":    "erofs is read-only",
	"ubi":      "UBI and ubifs lay data out anew on each flash chip, so that offsets in the image mean nothing",
	"ubifs":    "UBI and ubifs lay data out anew on each flash chip, so that offsets in the image mean nothing",
	"luks":     "LUKS encrypts the partition with a key that is not here",
	"swap":     "it is swap space",
}

// extVolume puts files into ext2, ext3 and ext4 by debugfs.
type extVolume struct {
	tools     *tools
	partition *Partition
	mount     string
	covered   []string // where the running device mounts something else
	files     []volumeFile

	sb     *superblock
	mkdirs []string   // in the order of making
	places []extPlace // one for each file
}

// extPlace is a target after symbolic links were resolved.
type extPlace struct {
	path string
	old  bool // a file is there, and is replaced
}

func (v *extVolume) prepare(ctx context.Context, base string) error {
	file, err := os.Open(base)
	if err != nil {
		return err
	}
	defer file.Close()
	fs, err := openExt(file, 0, v.partition.Bytes)
	if err != nil {
		return err
	}
	if fs.sb.incompat&incompatMMP != 0 {
		return refuse("Switch it off in the golden image: tune2fs -O ^mmp.",
			"the file system has multi-mount protection, which stamps each image with this machine's name and time")
	}
	if err := v.tools.repair(ctx, base); err != nil {
		return err
	}
	if fs, err = openExt(file, 0, v.partition.Bytes); err != nil {
		return err
	}
	v.sb = fs.sb
	for _, f := range v.files {
		if err := v.place(fs, f.path, f.Kind); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}

// place resolves one target.
func (v *extVolume) place(fs *extFS, name string, kind TargetKind) error {
	real, inodes, missing, err := fs.walk(name, v.mount)
	if err != nil {
		return err
	}
	if slices.Contains(missing, "..") || strings.ContainsAny(real, "\"\n") {
		return errors.New("a symbolic link leads to a place that does not exist")
	}
	for _, at := range v.covered {
		if real == at || strings.HasPrefix(real, at+"/") {
			return refuse("Name the file by the partition that is mounted there: "+dataMount+"/.. is the data partition.",
				"the path leads to %s, but the device mounts another file system at %s, which hides the file", real, at)
		}
	}
	for _, p := range v.places {
		if p.path == real {
			return errors.New("two of the files to inject are the same file")
		}
	}
	last := inodes[len(inodes)-1]
	if len(missing) == 0 {
		there := last.kind()
		if kind == TargetDirectory && there != modeDir {
			return errors.New("something that is not a directory is there already")
		}
		if kind != TargetDirectory && there != modeRegular && there != modeSymlink {
			return errors.New("something that is not a file is there already")
		}
		elsewhere, err := attrsElsewhere(last)
		if err != nil {
			return err
		}
		if kind != TargetDirectory && elsewhere {
			return refuse("Remove the file from the golden image.",
				"the file that is there has extended attributes outside its inode, which debugfs does not free with it")
		}
		last = inodes[max(len(inodes)-2, 0)]
	}
	if last.kind() != modeDir {
		return fmt.Errorf("%s cannot be made: a part of the path is a file", path.Dir(real))
	}
	if last.flags()&flagEncrypt != 0 {
		return refuse("Choose a folder that is not encrypted.", "%s is encrypted with a key that only the device has", path.Dir(real))
	}
	var dirs []string
	dir, n := path.Dir(real), len(missing)-1
	if kind == TargetDirectory && len(missing) > 0 {
		dir, n = real, len(missing)
	}
	for ; n > 0; dir, n = path.Dir(dir), n-1 {
		if !slices.Contains(v.mkdirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Reverse(dirs)
	v.mkdirs = append(v.mkdirs, dirs...)
	v.places = append(v.places, extPlace{real, len(missing) == 0})
	return nil
}

// lengths: blocks beyond the length fail e2fsck, so there is one template for
// each number of blocks. Where content can lie in the inode, small lengths
// stand for themselves.
func (v *extVolume) lengths(length int64) (least, most int64) {
	block := v.sb.blockSize
	inline := v.sb.incompat&incompatInlineData != 0
	if length == 0 || inline && length < v.sb.inodeSize {
		return length, length
	}
	most = (length + block - 1) / block * block
	least = most - block + 1
	if inline {
		least = max(least, v.sb.inodeSize)
	}
	return least, most
}

func (v *extVolume) render(ctx context.Context, work, scratch string, contents [][]byte) error {
	dir, err := os.MkdirTemp(scratch, "host-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var commands []string
	for _, name := range v.mkdirs {
		commands = append(commands, mkdirCommands(name)...)
	}
	for i, place := range v.places {
		more, err := v.commands(&v.files[i].Target, place, hostFiles{dir, i}, contents[i])
		if err != nil {
			return err
		}
		commands = append(commands, more...)
	}
	if err := v.tools.debugfs(ctx, work, commands); err != nil {
		return err
	}
	if v.sb.roCompat&(roCompatQuota|roCompatProject) != 0 {
		// debugfs does not count what it writes; e2fsck puts that right.
		if err := v.tools.repair(ctx, work); err != nil {
			return err
		}
	}
	return v.tools.clean(ctx, work)
}

// commands returns what makes one target.
func (v *extVolume) commands(t *Target, place extPlace, host hostFiles, content []byte) (out []string, err error) {
	if place.old && t.Kind != TargetDirectory {
		out = append(out, "cd "+quote(path.Dir(place.path)), "rm "+quote(place.path))
	}
	switch t.Kind {
	case TargetFile:
		name, err := host.write("content", content)
		if err != nil {
			return nil, err
		}
		out = append(out, writeCommands(name, place.path, t)...)
	case TargetDirectory:
		out = append(out, ownCommands(place.path, modeDir|t.Mode, t.UID, t.GID)...)
	case TargetSymlink:
		out = append(out, "cd "+quote(path.Dir(place.path)), "symlink "+quote(path.Base(place.path))+" "+quote(t.Link))
		out = append(out, ownCommands(place.path, modeSymlink|t.Mode, t.UID, t.GID)...)
	}
	for k, attr := range slices.Sorted(maps.Keys(t.XAttrs)) {
		name, err := host.write(fmt.Sprintf("attribute-%d", k), []byte(t.XAttrs[attr]))
		if err != nil {
			return nil, err
		}
		out = append(out, "ea_set -f "+quote(name)+" "+quote(place.path)+" "+quote(attr))
	}
	return out, nil
}

func (v *extVolume) slot(work *os.File, i int, content []byte) (Slot, error) {
	fs, err := openExt(work, 0, v.partition.Bytes)
	if err != nil {
		return Slot{}, err
	}
	n, err := fs.find(v.places[i].path, "")
	if err != nil {
		return Slot{}, fmt.Errorf("debugfs did not write it: %w", err)
	}
	target, want := &v.files[i].Target, uint16(modeRegular)
	switch target.Kind {
	case TargetDirectory:
		want = modeDir
	case TargetSymlink:
		want, content = modeSymlink, []byte(target.Link)
	}
	if n.mode() != want|target.Mode || n.uid() != target.UID || n.gid() != target.GID {
		return Slot{}, errors.New("debugfs set another mode or owner than it was told")
	}
	if target.Kind == TargetDirectory {
		return Slot{}, nil
	}
	got, err := fs.content(n, maxContent)
	if err != nil {
		return Slot{}, err
	}
	if !bytes.Equal(got, content) {
		return Slot{}, errors.New("debugfs wrote something else than it was told")
	}
	if !target.ownContent() {
		return Slot{}, nil
	}
	return v.slotOf(fs, n, int64(len(content)))
}

// slotOf describes how the file at inode n is patched.
func (v *extVolume) slotOf(fs *extFS, n *extInode, length int64) (Slot, error) {
	least, most := v.lengths(length)
	slot := Slot{Shortest: least, Inode: &InodeSlot{
		Offset: n.offset, Size: len(n.raw), Kind: InodeExt, Image: bytes.Clone(n.raw),
		Checksum: fs.sb.roCompat&roCompatMetadataCsum != 0, Seed: fs.sb.inodeSeed(n.number, n.generation()),
	}}
	inode := slot.Inode
	spans, err := fs.spans(n, most)
	if err != nil {
		return Slot{}, err
	}
	slot.Content = trimSpans(spans, most)
	if n.flags()&flagInline != 0 {
		inode.Inline = true
		for _, s := range slot.Content {
			clear(inode.Image[s.Offset-n.offset:][:s.Length])
		}
	}
	if slot.capacity() != most {
		return Slot{}, fmt.Errorf("the file has room for %d bytes, not %d", slot.capacity(), most)
	}
	inode.setLength(inode.Image, 0)
	if inode.Checksum {
		clear(inode.Image[extChecksumLow : extChecksumLow+2])
		if inode.highChecksum() {
			clear(inode.Image[extChecksumHigh : extChecksumHigh+2])
		}
	}
	return slot, nil
}

// trimSpans cuts spans to length bytes in total.
func trimSpans(spans []Span, length int64) []Span {
	var out []Span
	for _, s := range spans {
		if s.Length = min(s.Length, length); s.Length > 0 {
			out = append(out, s)
			length -= s.Length
		}
	}
	return out
}
