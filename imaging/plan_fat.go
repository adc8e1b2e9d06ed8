package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// fatVolume puts files into FAT by mtools.
type fatVolume struct {
	tools     *tools
	partition *Partition
	files     []volumeFile

	clusterSize int64
	mkdirs      []string
}

func (v *fatVolume) prepare(ctx context.Context, base string) error {
	if err := v.clean(ctx, base); err != nil {
		return refuse("Repair the partition in the golden image with fsck.vfat.", "%w", err)
	}
	file, err := os.Open(base)
	if err != nil {
		return err
	}
	defer file.Close()
	fat, err := openFAT(file, 0, v.partition.Bytes)
	if err != nil {
		return err
	}
	v.clusterSize = fat.clusterSize
	seen := map[string]bool{}
	for i := range v.files {
		f := &v.files[i]
		if f.Kind == TargetSymlink || len(f.XAttrs) > 0 || f.UID != 0 || f.GID != 0 {
			return refuse("Put it on an ext4 partition.", "%s: FAT has neither links nor owners nor attributes", f.Path)
		}
		if seen[strings.ToLower(f.path)] {
			return fmt.Errorf("%s: two of the files to inject are the same file", f.Path)
		}
		seen[strings.ToLower(f.path)] = true
		if err := v.place(fat, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}

// place notes the directories that have to be made.
func (v *fatVolume) place(fat *fatFS, f *volumeFile) error {
	there, depth, err := fat.find(f.path)
	if err == nil {
		if there.dir != (f.Kind == TargetDirectory) {
			return errors.New("something of another kind is there already")
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parts := splitPath(f.path)
	end := len(parts)
	if f.Kind == TargetFile {
		end--
	}
	for ; depth < end; depth++ {
		dir := "/" + path.Join(parts[:depth+1]...)
		if !slices.ContainsFunc(v.mkdirs, func(s string) bool { return strings.EqualFold(s, dir) }) {
			v.mkdirs = append(v.mkdirs, dir)
		}
	}
	return nil
}

// lengths: the directory entry has the length, the table the clusters.
func (v *fatVolume) lengths(length int64) (least, most int64) {
	if length == 0 {
		return 0, 0
	}
	most = (length + v.clusterSize - 1) / v.clusterSize * v.clusterSize
	return most - v.clusterSize + 1, most
}

func (v *fatVolume) render(ctx context.Context, work, scratch string, contents [][]byte) error {
	dir, err := os.MkdirTemp(scratch, "host-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range v.mkdirs {
		if err := v.mtools(ctx, "mmd", "-i", work, "::"+name); err != nil {
			return err
		}
	}
	for i := range v.files {
		f := &v.files[i]
		if f.Kind != TargetFile {
			continue
		}
		name, err := hostFiles{dir, i}.write("content", contents[i])
		if err != nil {
			return err
		}
		if err := os.Chtimes(name, v.tools.now, v.tools.now); err != nil {
			return err
		}
		if err := v.mtools(ctx, "mcopy", "-m", "-o", "-i", work, name, "::"+f.path); err != nil {
			return err
		}
	}
	return v.clean(ctx, work)
}

func (v *fatVolume) mtools(ctx context.Context, name string, args ...string) error {
	if _, stderr, err := v.tools.run(ctx, "mtools", "", name, args...); err != nil {
		return fmt.Errorf("%s: %w%s", name, err, firstLine(stderr))
	}
	return nil
}

func (v *fatVolume) clean(ctx context.Context, image string) error {
	out, stderr, err := v.tools.run(ctx, "dosfstools", "", "fsck.vfat", "-n", image)
	if err != nil {
		return fmt.Errorf("fsck.vfat -n does not accept the file system: %w%s", err, firstLine(out+stderr))
	}
	return nil
}

func (v *fatVolume) slot(work *os.File, i int, content []byte) (Slot, error) {
	fat, err := openFAT(work, 0, v.partition.Bytes)
	if err != nil {
		return Slot{}, err
	}
	target := &v.files[i]
	e, _, err := fat.find(target.path)
	if err != nil {
		return Slot{}, fmt.Errorf("mtools did not write it: %w", err)
	}
	if target.Kind == TargetDirectory {
		return Slot{}, nil
	}
	got, err := fat.content(e, maxContent)
	if err != nil {
		return Slot{}, err
	}
	if !bytes.Equal(got, content) {
		return Slot{}, errors.New("mtools wrote something else than it was told")
	}
	least, most := v.lengths(int64(len(content)))
	spans, err := fat.chain(e.cluster, most/fat.clusterSize)
	if err != nil {
		return Slot{}, err
	}
	clear(e.raw[fatSize:])
	return Slot{Content: spans, Shortest: least,
		Inode: &InodeSlot{Offset: e.offset, Size: fatEntry, Kind: InodeFAT, Image: e.raw[:]}}, nil
}
