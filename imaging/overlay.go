// Package imaging puts files into disk images. It reads partition tables,
// plans once per golden image what an injection changes (a template), and then
// makes each device's image by patching a few blocks (an overlay). Overlays
// are kept in a pack; images leave in several formats. The package knows no
// devices: it is told paths, modes and contents.
package imaging

import (
	"crypto/sha256"
)

// Extent is a run of bytes at an absolute offset of the image, in bytes.
type Extent struct {
	Offset int64
	Data   []byte
}

// Span is a run of bytes in the image without its content.
type Span struct {
	Offset int64 `json:"offset"` // bytes from the start of the image
	Length int64 `json:"length"` // bytes
}

// Template is the plan of what an injection changes in a golden image, for one
// set of contents whose lengths need the same number of blocks. It is
// immutable, and safe for use by many goroutines.
type Template struct {
	// Golden is the SHA-256 of the golden image that the template patches.
	Golden [sha256.Size]byte
	// GoldenBytes is the length of that image.
	GoldenBytes int64
	// Constant holds the bytes that are the same for every device, sorted by
	// offset, not overlapping. Content slots within them read as zero.
	Constant []Extent
	// Slots has one entry per injected file, in the order of the targets.
	Slots []Slot
}

// Slot is where one file's content lies in the image.
type Slot struct {
	Path string // as in the target
	// Content lists where the file's bytes lie, in file order. The lengths sum
	// up to the slot's capacity; content shorter than that is followed by zeros.
	Content []Span
	// Inode says how length and checksum of the file's inode are patched; nil
	// where the content's length is fixed by the template.
	Inode *InodeSlot
	// Bytes is the exact length the content must have where Inode is nil.
	Bytes int64
	// Shortest is the least length the content can have where Inode is not nil:
	// one less, and the file would have a block that it doesn't need.
	Shortest int64
}

// Overlay is the difference between one device's image and the golden image.
type Overlay struct {
	Template *Template
	// Slots holds the device's own bytes: contents and inode patches, sorted
	// by offset, not overlapping. They override Template.Constant.
	Slots []Extent
}
