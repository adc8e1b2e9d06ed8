package reports

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what is read from a bundle before its hash is known to be right.
const (
	maxStatement  = 64 << 20 // bytes of statement.dsse.json
	maxCheckpoint = 1 << 20  // of a checkpoint, with its cosignatures
	maxSmall      = 64 << 20 // of README.txt and the like
	maxFiles      = 100_000  // entries of a bundle's folders
)

// openRegular opens a file that is no symbolic link, no pipe and no device, and
// never waits for one.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, 0, &notRegularError{filepath.Base(path)}
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &notRegularError{filepath.Base(path)}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

type notRegularError struct{ name string }

func (e *notRegularError) Error() string { return "is not a regular file" }

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("has %d bytes, more than the %d that it may have", size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("has more than the %d bytes that it may have", limit)
	}
	return data, err
}

// read reads a small file of the bundle; what is wrong with it is a flaw.
func (v *verifier) read(name string, limit int64) ([]byte, error) {
	data, err := readBounded(filepath.Join(v.dir, filepath.FromSlash(name)), limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, flawed(name, "is missing")
	case err != nil:
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, err
		}
		return nil, flawed(name, "%v", err)
	}
	return data, nil
}

// files compares what is in the folder with what the statement names.
func (v *verifier) files(ctx context.Context) error {
	named := map[string]string{}
	for _, s := range v.st.Subject {
		if name, ok := strings.CutPrefix(s.Name, bundlePrefix); ok {
			if _, twice := named[name]; twice {
				v.report.problem(fileStatement, "names %s twice", name)
			}
			named[name] = s.Digest["sha256"]
			if v.second() && !v.known(name) {
				v.report.problem(fileStatement, "names %s, which no export writes", name)
			}
		}
	}
	if err := v.folder(ctx, "", named, new(int)); err != nil {
		return err
	}
	for name := range named {
		v.report.problem(name, "is missing")
	}
	slices.SortFunc(v.report.Problems, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
	if v.report.OK() {
		v.report.ok("%d files have the hashes that were signed, and there are no others", v.report.Files)
	}
	return nil
}

// folder looks at one folder of the bundle. Links, pipes and empty folders are
// refused before anything is opened.
func (v *verifier) folder(ctx context.Context, name string, named map[string]string, seen *int) error {
	entries, err := os.ReadDir(filepath.Join(v.dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		v.report.problem(name, "is an empty folder")
	}
	for _, d := range entries {
		if *seen++; *seen > maxFiles {
			return flawed("", "the folder has more than %d entries", maxFiles)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		full := strings.TrimPrefix(name+"/"+d.Name(), "/")
		switch {
		case d.IsDir():
			err = v.folder(ctx, full, named, seen)
		case !d.Type().IsRegular():
			delete(named, full)
			v.report.problem(full, "is not a regular file")
		default:
			err = v.file(full, named)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) file(name string, named map[string]string) error {
	if name == fileStatement || v.addedLater(name) {
		return nil
	}
	want, ok := named[name]
	delete(named, name)
	if !ok {
		v.report.problem(name, "was not there when the bundle was signed")
		return nil
	}
	f, size, err := openRegular(filepath.Join(v.dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	v.report.Files++
	if bytes, ok := v.st.Predicate.Files[name]; v.second() && (!ok || bytes != size) {
		v.report.problem(name, "has %d bytes, %d were signed", size, bytes)
		return nil
	}
	if !v.second() && hollow(f, size) {
		v.report.problem(name, "is a sparse file of %d bytes", size)
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, size+1)); err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != want {
		v.report.problem(name, "was changed after it was signed (sha256 %.16s.., signed %.16s..)", sum, want)
	}
	return nil
}

// hollow reports whether a large file is mostly holes. The first format does not
// say how large its files are.
func hollow(f *os.File, size int64) bool {
	var st unix.Stat_t
	return size > 1<<30 && unix.Fstat(int(f.Fd()), &st) == nil && st.Blocks*512 < size/8
}

// addedLater reports whether a file may come to a bundle after it was signed:
// checkpoints that witnesses cosigned, which carry signatures of their own.
func (v *verifier) addedLater(name string) bool {
	return slices.ContainsFunc(v.st.Predicate.Logs, func(h LogHead) bool {
		return name == v.folderOf(h)+"/"+nameCosigned && h.Kind != KindLegacy
	})
}

// folderOf returns the folder of a log in this bundle.
func (v *verifier) folderOf(h LogHead) string {
	if v.second() {
		return folderOf(h)
	}
	return folderLog + "/" + escapeName(h.Station)
}

// second reports whether the bundle is of the second format.
func (v *verifier) second() bool { return v.st.PredicateType == PredicateType }

// known reports whether an export writes a file of this name.
func (v *verifier) known(name string) bool {
	if slices.Contains([]string{fileEvents, fileDevices, fileImages, fileReadme, fileSums}, name) {
		return true
	}
	for _, f := range formats() {
		if slices.Contains(f.files, name) {
			return true
		}
	}
	return slices.ContainsFunc(v.st.Predicate.Logs, func(h LogHead) bool {
		rest, ok := strings.CutPrefix(name, folderOf(h)+"/")
		if !ok {
			return false
		}
		switch h.Kind {
		case KindStation:
			return rest == nameLeaves || rest == nameCheckpoint || rest == nameTimestamp
		case KindLot:
			return rest == nameCheckpoint
		}
		return rest == nameNodes
	})
}
