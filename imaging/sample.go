package imaging

import "context"

// SampleOptions say what a sample image looks like. The zero value is good.
type SampleOptions struct {
	Bytes     int64    // length of the image; 0 means 64 MiB
	Table     string   // "mbr" (default) or "gpt"
	BlockSize int      // of the data partition's ext4; 0 leaves it to mke2fs
	Mkfs      []string // command that makes the data partition's file system, without the file's name
}

// Sample makes a golden image for trials: a boot partition, two root file
// systems and a data partition with /mender, as mender-convert lays them out.
// The file is sparse. An existing file is replaced.
func Sample(ctx context.Context, path string, opt SampleOptions) error { return errSoon }
