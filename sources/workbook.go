package sources

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

// Limits of what a workbook may unpack to. A million devices with ten columns
// take 600 MB of sheet; everything but sheets and shared strings is unpacked
// into memory by excelize.
const (
	maxUnpacked = 2 << 30  // bytes, all parts
	maxAside    = 64 << 20 // bytes, parts that are neither sheets nor shared strings
	maxRatio    = 250      // unpacked to packed, for parts beyond 16 MiB; sheets have 10 to 30
	maxParts    = 10000
)

// workbook is an XLSX file. excelize reads its values; beside it the sheet's
// XML is scanned to its end, because excelize stops without an error where a
// sheet is cut off and does not tell what type a cell has.
type workbook struct {
	path    string
	limit   int64 // size of the parts that are kept in memory
	file    *os.File
	parts   map[string]*zip.File // by lower-case name
	book    *excelize.File
	tmp     string // excelize's folder for parts that it unpacks
	sheet   string
	part    string // the sheet's part
	strings sharedStrings
	notes   []Problem
	sha     string
	dates   map[int]bool // by style
}

func openWorkbook(path, sheet string) (source, error) {
	return openWorkbookLimit(path, sheet, memoryPart)
}

// openWorkbookLimit keeps sheets and shared strings up to limit bytes in memory.
func openWorkbookLimit(path, sheet string, limit int64) (source, error) {
	w := &workbook{path: path, limit: limit, dates: map[int]bool{}}
	if err := w.load(sheet); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *workbook) load(sheet string) error {
	var err error
	if w.sha, err = hashFile(w.path); err != nil {
		return err
	}
	if w.file, err = os.Open(w.path); err != nil {
		return err
	}
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	archive, err := zip.NewReader(w.file, info.Size())
	if err != nil {
		return refuse("the workbook is damaged: "+err.Error(), "save it again, and copy it again: it may have been cut off on the way")
	}
	if err := w.index(archive); err != nil {
		return err
	}
	if w.part, err = w.chooseSheet(sheet); err != nil {
		return err
	}
	if err := w.countStrings(); err != nil {
		return err
	}
	return w.unpack()
}

// index notes the parts and refuses an archive that would unpack to too much.
func (w *workbook) index(archive *zip.Reader) error {
	w.parts = make(map[string]*zip.File, len(archive.File))
	var total, aside uint64
	if len(archive.File) > maxParts {
		return refuse("the workbook has too many parts", "copy the devices into a new workbook")
	}
	for _, f := range archive.File {
		name := strings.ToLower(strings.ReplaceAll(f.Name, "\\", "/"))
		if _, dup := w.parts[name]; dup {
			return refuse(fmt.Sprintf("the workbook has the part %.60q twice", name), "save it again from the spreadsheet program")
		}
		w.parts[name] = f
		size := f.UncompressedSize64
		if size > maxUnpacked || size > memoryPart && size/maxRatio > f.CompressedSize64 {
			return errBomb(name, size)
		}
		total += size
		if !strings.HasPrefix(name, sheetPrefix) && name != sharedStringsPart {
			aside += size
		}
	}
	if total > maxUnpacked || aside > maxAside {
		return errBomb("workbook", max(total, aside))
	}
	if _, ok := w.parts["mimetype"]; ok {
		return refuse("the manifest is an OpenDocument spreadsheet", "save it as XLSX or CSV UTF-8")
	}
	return nil
}

func errBomb(what string, size uint64) error {
	return refuse(fmt.Sprintf("the workbook would unpack to too much (%.60s: %d MiB)", what, size>>20),
		"copy the devices alone into a new workbook, or save them as CSV UTF-8")
}

// Close removes what was unpacked.
func (w *workbook) Close() error {
	var errs []error
	if w.book != nil {
		errs = append(errs, w.book.Close())
	}
	if w.file != nil {
		errs = append(errs, w.file.Close())
	}
	if w.tmp != "" {
		errs = append(errs, os.RemoveAll(w.tmp))
	}
	return errors.Join(errs...)
}

// part opens a part of the archive; its reader checks length and CRC at the end.
func (w *workbook) openPart(name string) (io.ReadCloser, error) {
	f, ok := w.parts[strings.ToLower(name)]
	if !ok {
		return nil, refuse(fmt.Sprintf("the workbook lacks its part %.60q", name), "save it again from the spreadsheet program")
	}
	r, err := f.Open()
	if err != nil {
		return nil, refuse("the workbook is damaged: "+err.Error(), "save it again from the spreadsheet program")
	}
	return r, nil
}

// isDate reports whether a style shows numbers as dates or times.
func (w *workbook) isDate(style int) bool {
	is, known := w.dates[style]
	if known {
		return is
	}
	if s, err := w.book.GetStyle(style); err == nil {
		is = dateFormat(s.NumFmt)
		if s.CustomNumFmt != nil {
			is = dateCode(*s.CustomNumFmt)
		}
	}
	w.dates[style] = is
	return is
}

// dateFormat reports whether a built-in number format is a date's or a time's
// (ECMA-376 part 1, 18.8.30).
func dateFormat(id int) bool {
	return id >= 14 && id <= 22 || id >= 27 && id <= 36 || id >= 45 && id <= 47 || id >= 50 && id <= 58
}

// dateCode reports whether a number format code shows dates: it has one of
// their letters outside quotes and brackets.
func dateCode(code string) bool {
	quoted, bracket, escaped := false, false, false
	for _, r := range strings.ToLower(code) {
		switch {
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case quoted:
		case r == '[':
			bracket = true
		case r == ']':
			bracket = false
		case !bracket && strings.ContainsRune("ymdhs", r):
			return true
		}
	}
	return false
}

// damaged words an error of the XML scan: the environment's stay what they are.
func damaged(part string, err error) error {
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	if pipeline.Hint(err) != "" {
		return err
	}
	return refuse(fmt.Sprintf("the workbook is damaged (%s): %v", part, err), "save it again from the spreadsheet program, and copy it again")
}
