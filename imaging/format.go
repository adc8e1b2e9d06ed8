package imaging

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Image is what the writers need of a golden image; *Golden is one. All
// methods may be called by many goroutines at once.
type Image interface {
	io.ReaderAt
	Path() string
	Size() int64 // bytes
	SHA256() [sha256.Size]byte
	// Unchanged returns an error when the file is not what it was when it was
	// opened.
	Unchanged() error
	// Matter returns the ranges that must reach a medium, sorted; see
	// Golden.Matter.
	Matter(ctx context.Context) ([]Span, error)
	// Prove reads the image and compares its hash, once.
	Prove(ctx context.Context) error
}

// Format is one form in which images leave. To add one, write its file and
// its line in Formats.
type Format struct {
	// Name is what --format takes.
	Name string
	// Extension of the device's file, with its dot, instead of golden's.
	Extension string
	// Suffix comes behind golden's own extension where there is no other.
	Suffix string
	// check refuses images of size bytes that the format can't hold; nil: it holds
	// any.
	check func(size int64) error
	// keyIn returns where the key lies in the file at path; nil, the function or what
	// it returns: anywhere.
	keyIn func(path string, t *Template) []Span
	// open prepares the writing of many images of one golden image. What the
	// devices share lies in the folder dir, too.
	open func(ctx context.Context, g Image, dir string) (Writer, error)
}

// Formats lists the formats of single images. A pack is not among them: it is
// where all of them are made from.
func Formats() []Format {
	return []Format{
		{Name: "raw", keyIn: rawKey, open: openRaw},
		{Name: "qcow2", Extension: ".qcow2", check: checkQcow2, open: openQcow2},
		{Name: "bmap", Extension: ".delta", open: openBmap},
		{Name: "simg", Extension: ".simg", check: checkSimg, open: openSimg},
		{Name: "gz", Suffix: ".gz", keyIn: packedKey("gz"), open: openGzip},
		{Name: "xz", Suffix: ".xz", keyIn: packedKey("xz"), open: openXz},
		{Name: "zst", Suffix: ".zst", keyIn: packedKey("zst"), open: openZstd},
	}
}

// FindFormat returns the format of this name.
func FindFormat(name string) (Format, error) {
	var names []string
	for _, f := range Formats() {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return Format{}, fmt.Errorf("no image format %q; there are %s", name, strings.Join(names, ", "))
}

// Check refuses a golden image of size bytes that the format can't hold. Ask before
// the first key is made.
func (f Format) Check(size int64) error {
	if f.check == nil {
		return nil
	}
	return f.check(size)
}

// Open prepares the writing of many images of one golden image into the folder
// dir, which exists. It reads golden once, and compares its hash.
func (f Format) Open(ctx context.Context, g Image, dir string) (Writer, error) {
	if err := f.Check(g.Size()); err != nil {
		return nil, err
	}
	if err := g.Prove(ctx); err != nil {
		return nil, err
	}
	w, err := f.open(ctx, g, dir)
	if err != nil {
		return nil, fmt.Errorf("prepare format %s: %w", f.Name, err)
	}
	return w, nil
}

// FileName returns the name of a device's file in this format; golden is the
// name of the golden image as it was given, compressed or not.
func (f Format) FileName(device, golden string) string {
	if f.Extension != "" {
		return device + f.Extension
	}
	return device + filepath.Ext(trimCompression(golden)) + f.Suffix
}

// ProductFiles returns the files that a published image at path can consist of: the
// image, and the block map beside it.
func ProductFiles(path string) []string { return []string{path, path + bmapSuffix} }

// Writer makes the images of one golden image in one format. Its methods may be
// called by many goroutines at once, but not for the same dst.
type Writer interface {
	// Write publishes the image of one device under the name dst, mode 0600,
	// replacing what was there: it is written under a hidden name, made durable,
	// read back, and only then renamed. Errors of the disk can be recognised with
	// errors.Is (syscall.ENOSPC and the like). Writing the same overlay again
	// makes the same bytes.
	Write(ctx context.Context, o *Overlay, dst string) (Result, error)
	// View opens a published file and shows the device's whole image, as
	// whoever flashes the file gets it, golden's part included where the format
	// leaves that out.
	View(path string) (View, error)
	// Close gives up what Open prepared; the files stay.
	Close() error
}

// View shows the image that lies in a file of some format.
type View interface {
	io.ReaderAt
	io.Closer
}

// Result describes a published file.
type Result struct {
	Bytes  int64 // length of the file
	Shared bool  // the file shares golden's blocks on the disk (a reflink)
}
