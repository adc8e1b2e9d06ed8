package imaging

// InodeSlot is where an ext2/3/4 inode's size and checksum lie.
type InodeSlot struct {
	// Offset of the inode in the image, and the inode's size on disk, in bytes.
	Offset int64
	Size   int
}
