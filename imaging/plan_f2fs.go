package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// f2fsVolume writes over placeholder files that the golden image holds: no
// tool puts files into an F2FS image that has some already. A placeholder has
// 4096 bytes or more, which is what its content can have at most.
type f2fsVolume struct {
	tools     *tools
	partition *Partition
	files     []volumeFile
}

func (v *f2fsVolume) prepare(ctx context.Context, base string) error {
	if err := v.clean(ctx, base); err != nil {
		return refuse("Repair the partition in the golden image with fsck.f2fs.", "%w", err)
	}
	file, err := os.Open(base)
	if err != nil {
		return err
	}
	defer file.Close()
	f2fs, err := openF2FS(file, 0, v.partition.Bytes)
	if err != nil {
		return err
	}
	seen := map[uint32]bool{}
	for _, f := range v.files {
		if f.Kind != TargetFile || len(f.XAttrs) > 0 {
			return refuse("Make it in the golden image, or use ext4.", "%s: F2FS takes files' contents only", f.Path)
		}
		n, err := f2fs.find(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			return refuse("Put a placeholder file of 4096 bytes there in the golden image, or use ext4.", "%s: F2FS takes only files that are there already", f.Path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if _, err := f2fs.spans(n); err != nil {
			return refuse("Put a placeholder file of 4096 bytes there in the golden image, or use ext4.", "%s: %w", f.Path, err)
		}
		if seen[n.number] {
			return fmt.Errorf("%s: two of the files to inject are the same file", f.Path)
		}
		seen[n.number] = true
	}
	return nil
}

// lengths: one template does for all lengths. What is too long is refused when
// the template is made.
func (v *f2fsVolume) lengths(length int64) (least, most int64) {
	return 0, max((length+f2fsBlock-1)/f2fsBlock*f2fsBlock, f2fsBlock)
}

func (v *f2fsVolume) render(ctx context.Context, work, _ string, contents [][]byte) (err error) {
	file, err := os.OpenFile(work, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for i := range v.files {
		slot, err := v.find(file, i)
		if err != nil {
			return err
		}
		if room := slot.capacity(); int64(len(contents[i])) > room {
			return refuse("Make the placeholder file in the golden image larger.", "%s: %d bytes do not fit into the placeholder's %d", v.files[i].Path, len(contents[i]), room)
		}
		t := &Template{Slots: []Slot{slot}}
		o, err := t.Fill([][]byte{contents[i]})
		if err != nil {
			return err
		}
		for _, s := range slot.Content {
			o.Template.Constant = append(o.Template.Constant, Extent{s.Offset, make([]byte, s.Length)})
		}
		o.Template.Constant = append(o.Template.Constant, Extent{slot.Inode.Offset, slot.Inode.Image})
		for _, e := range append(o.Template.Constant, o.Slots...) {
			if _, err := file.WriteAt(e.Data, e.Offset); err != nil {
				return err
			}
		}
	}
	return v.clean(ctx, work)
}

// find returns the slot of file i, with the target's mode and owner in its inode.
func (v *f2fsVolume) find(file *os.File, i int) (Slot, error) {
	f2fs, err := openF2FS(file, 0, v.partition.Bytes)
	if err != nil {
		return Slot{}, err
	}
	n, err := f2fs.find(v.files[i].path)
	if err != nil {
		return Slot{}, err
	}
	binary.LittleEndian.PutUint16(n.raw, modeRegular|v.files[i].Mode)
	binary.LittleEndian.PutUint32(n.raw[4:], v.files[i].UID)
	binary.LittleEndian.PutUint32(n.raw[8:], v.files[i].GID)
	return f2fs.slot(n)
}

func (v *f2fsVolume) clean(ctx context.Context, image string) error {
	out, stderr, err := v.tools.run(ctx, "f2fs-tools", "", "fsck.f2fs", "--dry-run", image)
	if err == nil && bytes.Contains([]byte(out), []byte("[Fail]")) {
		err = errors.New("it finds errors")
	}
	if err != nil {
		return fmt.Errorf("fsck.f2fs --dry-run does not accept the file system: %w%s", err, firstLine(stderr))
	}
	return nil
}

func (v *f2fsVolume) slot(work *os.File, i int, content []byte) (Slot, error) {
	slot, err := v.find(work, i)
	if err != nil {
		return Slot{}, err
	}
	t := &Template{Slots: []Slot{slot}}
	got, err := ReadContent(t, 0, work)
	if err != nil {
		return Slot{}, err
	}
	if !bytes.Equal(got, content) {
		return Slot{}, errors.New("the file reads back as something else")
	}
	return slot, nil
}
