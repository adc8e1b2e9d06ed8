package imaging

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// unpacked returns the path of the raw image: the path itself, or where the
// compressed image was unpacked to, once, under the hash of the compressed file.
func unpacked(ctx context.Context, path string, opt GoldenOptions) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	counted := &countedReader{r: file}
	in := bufio.NewReaderSize(counted, copyBuffer)
	start, err := in.Peek(sniffBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	c := compressionOf(start)
	if c == nil {
		return path, foreignForm(start, "")
	}
	if opt.CacheDir == "" {
		return "", refuse("Unpack it first, or name a folder where unpacked images are kept.", "the image is compressed with %s", c.name)
	}
	name, err := unpackedName(ctx, file, path, opt)
	if err != nil {
		return "", err
	}
	if isAsUnpacked(name) {
		return name, nil
	}
	if err := unpackInto(ctx, name, in, c, counted, opt.Progress); err != nil {
		return "", fmt.Errorf("unpack (%s): %w", c.name, err)
	}
	return name, nil
}

// unpackInto unpacks a golden image, and records what came of it.
func unpackInto(ctx context.Context, name string, in *bufio.Reader, c *compression, counted *countedReader, progress func(string, int64, int64)) error {
	out, err := c.open(in)
	if err != nil {
		return err
	}
	defer out.Close()
	raw := bufio.NewReaderSize(out, copyBuffer)
	start, err := raw.Peek(sniffBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := foreignForm(start, c.name); err != nil {
		return err
	}
	digest := sha256.New()
	info, err := counted.r.Stat()
	if err != nil {
		return err
	}
	tell := func() {
		if progress != nil {
			progress("unpack", counted.n.Load(), info.Size())
		}
	}
	if err := unpackTo(ctx, name, io.TeeReader(raw, digest), tell); err != nil {
		return err
	}
	return recordUnpacked(name, [sha256.Size]byte(digest.Sum(nil)))
}

// countedReader counts what was read of a file.
type countedReader struct {
	r *os.File
	n atomic.Int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// unpackedName is where the raw image is kept: golden.sdimg.xz becomes
// HASH.sdimg, since tools go by the extension.
func unpackedName(ctx context.Context, file *os.File, path string, opt GoldenOptions) (string, error) {
	if err := os.MkdirAll(opt.CacheDir, 0o700); err != nil {
		return "", err
	}
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	state, err := stateOf(info)
	if err != nil {
		return "", err
	}
	sum, _, err := cachedSum(ctx, path, state, opt)
	if err != nil {
		return "", err
	}
	inner := filepath.Ext(trimCompression(path))
	if inner == "" {
		inner = ".img"
	}
	return filepath.Join(opt.CacheDir, hex.EncodeToString(sum[:])+inner), nil
}

// unpackedRecord is kept beside an unpacked image. What lies under its name is
// taken for it only where it is that very file, untouched.
type unpackedRecord struct {
	SHA256 string `json:"sha256"`
	State  string `json:"state"` // fileState, as text
}

func unpackedRecordName(name string) string { return name + ".json" }

func recordUnpacked(name string, sum [sha256.Size]byte) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	state, err := stateOf(info)
	if err != nil {
		return err
	}
	data, err := json.Marshal(unpackedRecord{hex.EncodeToString(sum[:]), fmt.Sprintf("%+v", state)})
	if err != nil {
		return err
	}
	return writeWhole(unpackedRecordName(name), data)
}

// isAsUnpacked reports whether the file is the one that was unpacked under this
// name: same device, inode, length and times.
func isAsUnpacked(name string) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	state, err := stateOf(info)
	if err != nil {
		return false
	}
	data, err := os.ReadFile(unpackedRecordName(name))
	if err != nil {
		return false
	}
	var r unpackedRecord
	return json.Unmarshal(data, &r) == nil && r.State == fmt.Sprintf("%+v", state)
}

// unpackedSum returns the hash that was computed while the file was unpacked.
func unpackedSum(name string) (sum [sha256.Size]byte, ok bool) {
	if !isAsUnpacked(name) {
		return sum, false
	}
	data, err := os.ReadFile(unpackedRecordName(name))
	if err != nil {
		return sum, false
	}
	var r unpackedRecord
	if json.Unmarshal(data, &r) != nil {
		return sum, false
	}
	b, err := hex.DecodeString(r.SHA256)
	if err != nil || len(b) != len(sum) {
		return sum, false
	}
	return [sha256.Size]byte(b), true
}

// unpackName is what an image is called while it is unpacked.
const unpackName = ".unpack-*"

// unpackTo writes a sparse file, which gets its name when it is whole.
func unpackTo(ctx context.Context, name string, in io.Reader, tell func()) (err error) {
	pattern := filepath.Join(filepath.Dir(name), unpackName)
	for _, left := range unlocked(pattern) { // by a killed process
		if err := os.Remove(left); err != nil {
			return err
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), unpackName) // "." is not "", which would be another disk's /tmp
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, tmp.Close()); err == nil {
			err = os.Rename(tmp.Name(), name)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err := unix.Flock(int(tmp.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := writeSparse(ctx, tmp, in, tell); err != nil {
		return err
	}
	return tmp.Sync()
}

// writeSparse copies a stream to a new file, and leaves zeros out.
func writeSparse(ctx context.Context, f *os.File, in io.Reader, tell func()) error {
	buf, at := make([]byte, copyBuffer), int64(0)
	defer clear(buf)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := fill(in, buf)
		if err := writeNonZero(f, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
		tell()
		if errors.Is(err, io.EOF) {
			return f.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until buf is full. Other than io.ReadFull it keeps apart the end
// of the stream and a stream that was cut off.
func fill(in io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = in.Read(buf[n:])
		n += k
	}
	return n, err
}
