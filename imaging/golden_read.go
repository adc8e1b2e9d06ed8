package imaging

import (
	"context"
	"fmt"
)

// fileLimit bounds what ReadFile reads, in bytes: keys and configuration.
const fileLimit = 1 << 20

// ReadFile reads a file of at most 1 MiB from one of the image's ext2, ext3 or
// ext4 partitions, without mounting it. path is as in a Target.
func (g *Golden) ReadFile(ctx context.Context, path string) ([]byte, error) {
	at, err := parsePlace(path)
	if err != nil {
		return nil, err
	}
	p, err := g.partition(at.partition)
	if err != nil {
		return nil, err
	}
	mount := ""
	if at.partition == 0 {
		mount = dataMount
	}
	fs, err := openExt(g, p.Offset, p.Bytes)
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", p.Number, err)
	}
	inode, err := fs.find(at.path, mount)
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", p.Number, err)
	}
	if inode.kind() != modeRegular {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := fs.content(inode, fileLimit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return content, ctx.Err()
}
