package sources

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

// memoryPart is the size in bytes up to which a sheet or the shared strings are kept in memory.
const memoryPart = 16 << 20

// unpack opens the workbook by excelize, which unpacks large parts into files
// below w.tmp.
func (w *workbook) unpack() error {
	var err error
	if w.tmp, err = os.MkdirTemp("", "keymill-manifest-"); err != nil {
		return errTemporary(err)
	}
	large, room := w.largeParts()
	if err := checkRoom(w.tmp, room); err != nil {
		return err
	}
	w.book, err = excelize.OpenFile(w.path, excelize.Options{UnzipSizeLimit: maxUnpacked, UnzipXMLSizeLimit: w.limit, TmpDir: w.tmp})
	if err != nil {
		return refuse("the workbook cannot be opened: "+err.Error(), "save it again from the spreadsheet program, as XLSX without a password")
	}
	return w.checkUnpacked(large)
}

// largeParts returns the sizes of the parts that are unpacked into files, sorted,
// and the room that they and the decoded shared strings need.
func (w *workbook) largeParts() (sizes []int64, room int64) {
	for name, f := range w.parts {
		size := int64(f.UncompressedSize64) //nolint:gosec // at most maxUnpacked, see index
		if size <= w.limit {
			continue
		}
		switch {
		case name == sharedStringsPart:
			room += 2 * size
		case strings.HasPrefix(name, sheetPrefix):
			room += size
		default:
			continue
		}
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	return sizes, room
}

// checkUnpacked makes sure that the large parts were unpacked whole: where the
// disk is full, excelize goes on with what it has.
func (w *workbook) checkUnpacked(large []int64) error {
	entries, err := os.ReadDir(w.tmp)
	if err != nil {
		return errTemporary(err)
	}
	var sizes []int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return errTemporary(err)
		}
		sizes = append(sizes, info.Size())
	}
	slices.Sort(sizes)
	if !slices.Equal(sizes, large) {
		return errTemporary(errors.New("parts of it are incomplete"))
	}
	return nil
}

func checkRoom(dir string, need int64) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return errTemporary(err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need { //nolint:gosec // blocks of a real disk
		return errTemporary(fmt.Errorf("it needs %d MiB, there are %d MiB", need>>20, free>>20))
	}
	return nil
}

// errTemporary is an error of the folder for temporary files: the machine's
// fault, not the manifest's.
func errTemporary(err error) error {
	return &pipeline.Outage{Part: pipeline.PartStorage, Err: fmt.Errorf("the workbook cannot be unpacked below %s: %w", os.TempDir(), err),
		Hint: "make room there or set TMPDIR to a folder with room; or save the manifest as CSV UTF-8, which needs none"}
}
