package imaging

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// SampleOptions say what a sample image looks like. The zero value is good.
type SampleOptions struct {
	Bytes      int64    // length of the image; 0 means 64 MiB
	Table      string   // "mbr" (default) or "gpt"
	SectorSize int      // 512 (default) or 4096
	BlockSize  int      // of the data partition's ext4; 0 leaves it to mke2fs
	Mkfs       []string // command that makes the data partition's file system, without the file's name
}

const (
	sampleBytes = 64 << 20
	sampleLeast = 24 << 20
	sampleAlign = 1 << 20
)

// sampleTime is when all sample images were made, so that they are all alike.
var sampleTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// samplePart is a partition of a sample image.
type samplePart struct {
	label         string
	kind          byte   // in an MBR
	guid          string // in a GPT
	offset, bytes int64
	mkfs          []string
}

// Sample makes a golden image for trials: a boot partition, two root file
// systems and a data partition with /mender, as mender-convert lays them out.
// Without mkfs.vfat the boot partition stays empty. The file is sparse. An
// existing file is replaced.
func Sample(ctx context.Context, path string, opt SampleOptions) (err error) {
	parts, err := opt.layout()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "keymill-sample-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	tmp, err := os.CreateTemp(filepath.Dir(path), ".sample-*")
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, tmp.Close()); err == nil {
			err = os.Rename(tmp.Name(), path)
		}
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if err := tmp.Truncate(opt.Bytes); err != nil {
		return err
	}
	for i, p := range parts {
		if err := p.fill(ctx, tmp, filepath.Join(scratch, strconv.Itoa(i))); err != nil {
			return fmt.Errorf("make the sample's %s partition: %w", p.label, err)
		}
	}
	write := writeMBR
	if opt.Table == TableGPT {
		write = writeGPT
	}
	if err := write(tmp, opt.Bytes, int64(opt.SectorSize), parts); err != nil {
		return err
	}
	return tmp.Sync()
}

// layout fills in defaults and divides the image.
func (opt *SampleOptions) layout() ([]samplePart, error) {
	if opt.Bytes == 0 {
		opt.Bytes = sampleBytes
	}
	if opt.Table == "" {
		opt.Table = TableMBR
	}
	if opt.SectorSize == 0 {
		opt.SectorSize = 512
	}
	opt.Bytes = opt.Bytes / sampleAlign * sampleAlign
	switch {
	case opt.Bytes < sampleLeast:
		return nil, fmt.Errorf("a sample image needs %d bytes or more", sampleLeast)
	case opt.Table != TableMBR && opt.Table != TableGPT:
		return nil, fmt.Errorf("a sample image has mbr or gpt, not %q", opt.Table)
	case opt.SectorSize != 512 && opt.SectorSize != 4096:
		return nil, fmt.Errorf("a sector size of %d bytes is unknown", opt.SectorSize)
	}
	const efi, linux = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0fc63daf-8483-4772-8e79-3d69d8477de4"
	share := max((opt.Bytes-8<<20)/4/sampleAlign*sampleAlign, 4<<20)
	root := func(n int) []string {
		return sampleMke2fs("rootfs", n, nil)
	}
	parts := []samplePart{
		{"boot", 0x0C, efi, 0, min(share, 16<<20), []string{"mkfs.vfat", "-n", "BOOT", "-i", "4b4d4c31", "--invariant"}},
		{"rootfs-a", 0x83, linux, 0, share, root(2)},
		{"rootfs-b", 0x83, linux, 0, share, root(3)},
		{"data", 0x83, linux, 0, 0, opt.Mkfs},
	}
	if len(opt.Mkfs) == 0 {
		parts[3].mkfs = sampleMke2fs("data", 4, opt.blockSize())
	}
	at := int64(sampleAlign)
	for i := range parts {
		parts[i].offset = at
		at += parts[i].bytes
	}
	parts[3].bytes = opt.Bytes - sampleAlign - parts[3].offset // room for the backup GPT
	return parts, nil
}

func (opt *SampleOptions) blockSize() []string {
	if opt.BlockSize == 0 {
		return nil
	}
	return []string{"-b", strconv.Itoa(opt.BlockSize)}
}

// sampleMke2fs returns the command for an ext4 that is the same every time.
func sampleMke2fs(label string, number int, more []string) []string {
	uuid := fmt.Sprintf("6b65796d-696c-4c00-8000-00000000000%d", number)
	return append([]string{"mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-U", uuid,
		"-E", "root_owner=0:0,hash_seed=" + uuid}, more...)
}

// fill makes the partition's file system in a file of its own and copies it in.
func (p *samplePart) fill(ctx context.Context, image *os.File, scratch string) error {
	t := tools{sampleTime}
	if _, err := lookTool(p.mkfs[0], ""); err != nil && p.mkfs[0] == "mkfs.vfat" {
		return nil
	}
	file, err := os.OpenFile(scratch, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(p.bytes); err != nil {
		return err
	}
	args := p.mkfs[1:]
	pkg := "dosfstools"
	if p.mkfs[0] == "mke2fs" {
		pkg = e2fsprogs
	}
	if _, stderr, err := t.run(ctx, pkg, "", p.mkfs[0], append(args[:len(args):len(args)], scratch)...); err != nil {
		return fmt.Errorf("%s: %w%s", p.mkfs[0], err, firstLine(stderr))
	}
	if p.label == "data" && pkg == e2fsprogs {
		if err := sampleTree(ctx, &t, scratch); err != nil {
			return err
		}
	}
	spans, err := dataWithin(file, 0, p.bytes)
	if err != nil {
		return err
	}
	for _, s := range spans {
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += copyBuffer {
			buf := make([]byte, min(copyBuffer, end-at))
			if err := errors.Join(readFull(file, buf, at), writeNonZero(image, buf, p.offset+at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sampleTree makes what the data partition holds: Mender's folder, and its
// description of the device. debugfs pins all times; mke2fs -d does not.
func sampleTree(ctx context.Context, t *tools, image string) error {
	name := image + "-device_type"
	if err := os.WriteFile(name, []byte("device_type=sample\n"), 0o600); err != nil {
		return err
	}
	commands := append(mkdirCommands("/mender"), writeCommands(name, "/mender/device_type", &Target{Mode: 0o644})...)
	return t.debugfs(ctx, image, commands)
}
