package imaging

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// The compressed forms in which golden images come: gzip, xz, zstd and bzip2, each
// with all that its own tool reads. Other forms are called by their names.

// compression is one form that is unpacked here.
type compression struct {
	name, extension string
	is              func(start []byte) bool
	open            func(in *bufio.Reader) (io.ReadCloser, error)
}

// sniffBytes is how much of a file says what it is.
const sniffBytes = 512

func begins(magic string) func([]byte) bool {
	return func(start []byte) bool { return bytes.HasPrefix(start, []byte(magic)) }
}

// compressions are told by how a file begins.
func compressions() []compression {
	return []compression{
		{"gzip", ".gz", begins("\x1f\x8b"), openGunzip},
		{"xz", ".xz", begins("\xfd7zXZ\x00"), openUnxz},
		{"zstd", ".zst", func(b []byte) bool { return begins("\x28\xb5\x2f\xfd")(b) || isSkippable(b) }, openUnzstd},
		{"bzip2", ".bz2", func(b []byte) bool { return len(b) > 3 && begins("BZh")(b) && b[3] >= '1' && b[3] <= '9' },
			func(in *bufio.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(in)), nil }},
	}
}

// isSkippable knows a skippable frame (RFC 8878, section 3.1.2), with which pzstd
// begins.
func isSkippable(b []byte) bool {
	return len(b) >= 4 && b[0]&0xf0 == 0x50 && string(b[1:4]) == "\x2a\x4d\x18"
}

// compressionOf returns how what begins so is compressed, nil if it is not.
func compressionOf(start []byte) *compression {
	for _, c := range compressions() {
		if c.is(start) {
			return &c
		}
	}
	return nil
}

// trimCompression takes the extension of a compressed form away from a name.
func trimCompression(name string) string {
	for _, c := range compressions() {
		if short, ok := strings.CutSuffix(name, c.extension); ok {
			return short
		}
	}
	return name
}

// foreignForms are forms of images that are not unpacked here.
var foreignForms = []struct {
	offset       int
	magic, name  string
	what, remedy string
}{
	{0, "PK\x03\x04", "zip", "a zip archive", "Unpack it first: unzip."},
	{0, "7z\xbc\xaf\x27\x1c", "7z", "a 7-Zip archive", "Unpack it first: 7z x."},
	{0, "Rar!\x1a\x07", "rar", "a RAR archive", "Unpack it first."},
	{0, "\x04\x22\x4d\x18", "lz4", "compressed with lz4", "Unpack it first: lz4 -d."},
	{0, "\x89LZO\x00", "lzop", "compressed with lzop", "Unpack it first: lzop -d."},
	{0, "LZIP", "lzip", "compressed with lzip", "Unpack it first: lzip -d."},
	{0, "\x5d\x00\x00", "lzma", "compressed with lzma", "Unpack it first: xz -d."},
	{0, "\x1f\x9d", "compress", "compressed with compress", "Unpack it first: gzip -d."},
	{0, "\x3a\xff\x26\xed", "simg", "an Android sparse image", "Unpack it first: simg2img."},
	{0, "QFI\xfb", "qcow2", "a qcow2 image", "Convert it first: qemu-img convert -O raw."},
	{0, "KDMV", "vmdk", "a VMDK image", "Convert it first: qemu-img convert -O raw."},
	{0, "vhdxfile", "vhdx", "a VHDX image", "Convert it first: qemu-img convert -O raw."},
	{0, "conectix", "vhd", "a VHD image", "Convert it first: qemu-img convert -O raw."},
	{64, "\x7f\x10\xda\xbe", "vdi", "a VDI image", "Convert it first: qemu-img convert -O raw."},
	{257, "ustar", "tar", "a tar archive", "Unpack it first: tar xf."},
}

// foreignForm returns an error where what begins so is an image in a form that is
// known, but not read. inside is how it was compressed, "" if it was not.
func foreignForm(start []byte, inside string) error {
	for _, f := range foreignForms {
		if len(start) < f.offset+len(f.magic) || string(start[f.offset:f.offset+len(f.magic)]) != f.magic {
			continue
		}
		what, remedy := f.what, f.remedy
		if f.name == "tar" && bytes.HasPrefix(start, []byte("version\x00")) {
			what, remedy = "a Mender artifact", "Take the disk image that was built with it: .sdimg, .uefiimg or .img."
		}
		if inside != "" {
			what += ", compressed with " + inside
		}
		return refuse(remedy, "it is %s, not a disk image", what)
	}
	return nil
}

// gunzip reads the members of a gzip file, and takes zeros behind them for padding,
// as gzip(1) does.
type gunzip struct {
	in *bufio.Reader
	*gzip.Reader
}

func openGunzip(in *bufio.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gunzip{in, z}, nil
}

func (g *gunzip) Read(p []byte) (int, error) {
	for {
		n, err := g.Reader.Read(p)
		if err != io.EOF { //nolint:errorlint // the package returns it bare
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		for {
			b, err := g.in.ReadByte()
			if err != nil {
				return 0, err // io.EOF at the end
			}
			if b != 0 {
				break
			}
		}
		if err := g.in.UnreadByte(); err != nil {
			return 0, err
		}
		if err := g.Reset(g.in); err != nil {
			return 0, err
		}
		g.Multistream(false)
	}
}

// xzMost bounds the dictionary that an xz file may ask for, in bytes.
const xzMost = 1 << 30

func openUnxz(in *bufio.Reader) (io.ReadCloser, error) {
	z, err := xz.NewReader(in, xzMost)
	if err != nil {
		return nil, xzError(err)
	}
	return io.NopCloser(unxz{z}), nil
}

type unxz struct{ *xz.Reader }

func (u unxz) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // the package returns it bare
		err = xzError(err)
	}
	return n, err
}

func xzError(err error) error {
	if errors.Is(err, xz.ErrOptions) {
		return refuse("Unpack it first: xz -dk.", "it uses a filter or option that is unknown here, such as ARM64: %w", err)
	}
	return err
}

func openUnzstd(in *bufio.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<31))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}
