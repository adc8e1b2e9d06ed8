package sources

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"keymill/pipeline"
)

// Limits of what a workbook may unpack to. A million devices with ten columns
// take 600 MB of sheet.
const (
	maxUnpacked = 2 << 30  // bytes, all parts
	maxAside    = 64 << 20 // bytes, parts that are neither sheets nor shared strings
	maxRatio    = 250      // unpacked to packed, for parts beyond 16 MiB; sheets have 10 to 30
	maxParts    = 10000
	bigPart     = 16 << 20 // bytes
	maxTextMem  = 64 << 20 // bytes of shared strings kept in memory
)

// workbook is an XLSX file. Rows, cells and shared strings are read by a scan of
// our own, which refuses what it does not understand; number formats and the
// date system are excelize's.
type workbook struct {
	path    string
	cfg     Config
	file    *os.File
	parts   map[string]*zip.File // by lower-case name
	formats *formats
	texts   textTable
	sheet   string
	part    string // the sheet's part
	notes   []Problem
	sha     string
}

func openWorkbook(path string, cfg Config) (source, error) {
	return openWorkbookLimit(path, cfg, maxTextMem)
}

// openWorkbookLimit keeps shared strings up to limit bytes in memory.
func openWorkbookLimit(path string, cfg Config, limit int) (source, error) {
	w := &workbook{path: path, cfg: cfg, texts: textTable{limit: limit}}
	if err := w.load(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *workbook) load() error {
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
	book, err := w.worksheets()
	if err != nil {
		return err
	}
	if book.strings != "" {
		part, err := w.openPart(book.strings)
		if err != nil {
			return err
		}
		defer part.Close()
		if err := w.texts.read(part); err != nil {
			return damaged("shared strings", err)
		}
	}
	if w.formats, err = w.openFormats(book.main, book.styles, book.sheets); err != nil {
		return err
	}
	return w.chooseSheet(book)
}

// index notes the parts and refuses an archive that is no workbook or would
// unpack to too much.
func (w *workbook) index(archive *zip.Reader) error {
	w.parts = make(map[string]*zip.File, len(archive.File))
	var total, aside uint64
	if len(archive.File) > maxParts {
		return refuse("the workbook has too many parts", "copy the devices into a new workbook")
	}
	for _, f := range archive.File {
		name := partName(f.Name)
		if strings.HasSuffix(name, "/") {
			continue
		}
		if _, dup := w.parts[name]; dup {
			return refuse(fmt.Sprintf("the workbook has the part %.60q twice", name), "save it again from the spreadsheet program")
		}
		w.parts[name] = f
		size := f.UncompressedSize64
		if size > maxUnpacked || size > bigPart && size/maxRatio > f.CompressedSize64 {
			return errBomb(name, size)
		}
		total += size
		if !strings.Contains(name, "worksheets/") && !strings.HasSuffix(name, "strings.xml") {
			aside += size
		}
	}
	if what := w.otherArchive(); what != "" {
		return refuse("the manifest is "+what, "save it as XLSX or CSV UTF-8")
	}
	if total > maxUnpacked || aside > maxAside {
		return errBomb("workbook", max(total, aside))
	}
	return nil
}

// partName makes a part's name comparable: some programs write backslashes, and
// case does not count (ECMA-376 part 2, 6.2.2).
func partName(name string) string {
	return strings.ToLower(strings.TrimPrefix(strings.ReplaceAll(name, "\\", "/"), "/"))
}

// otherArchive names what else comes in a ZIP archive, "" for a workbook.
func (w *workbook) otherArchive() string {
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := w.parts[n]; ok {
				return true
			}
		}
		return false
	}
	switch {
	case has("xl/workbook.bin"):
		return "a binary Excel workbook (.xlsb): save it as XLSX"
	case has("mimetype"):
		return "an OpenDocument file (.ods)"
	case has("word/document.xml"):
		return "a Word document (.docx)"
	case has("ppt/presentation.xml"):
		return "a PowerPoint presentation (.pptx)"
	case has("index/document.iwa", "index.zip"):
		return "a Numbers document"
	case !has("_rels/.rels", "[content_types].xml", "xl/workbook.xml"):
		return "a ZIP archive and no workbook"
	}
	return ""
}

func errBomb(what string, size uint64) error {
	return refuse(fmt.Sprintf("the workbook would unpack to too much (%.60s: %d MiB)", what, size>>20),
		"copy the devices alone into a new workbook, or save them as CSV UTF-8")
}

// Close gives back what was opened.
func (w *workbook) Close() error {
	errs := []error{w.formats.Close(), w.texts.Close()}
	if w.file != nil {
		errs = append(errs, w.file.Close())
	}
	return errors.Join(errs...)
}

// openPart opens a part of the archive as UTF-8; its reader checks length and
// CRC at the end.
func (w *workbook) openPart(name string) (io.ReadCloser, error) {
	f, ok := w.parts[partName(name)]
	if !ok {
		return nil, refuse(fmt.Sprintf("the workbook lacks its part %.60q", name), "save it again from the spreadsheet program")
	}
	r, err := f.Open()
	if err != nil {
		return nil, refuse("the workbook is damaged: "+err.Error(), "save it again from the spreadsheet program")
	}
	text, err := decodeXML(r)
	if err != nil {
		return nil, errors.Join(damaged(name, err), r.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{text, r}, nil
}

// errTemporary is an error of the folder for temporary files: the machine's
// fault, not the manifest's.
func errTemporary(err error) error {
	return &pipeline.Outage{Part: pipeline.PartStorage, Err: fmt.Errorf("the workbook's texts cannot be kept below %s: %w", os.TempDir(), err),
		Hint: "make room there or set TMPDIR to a folder with room; or save the manifest as CSV UTF-8, which needs none"}
}

// damaged words an error of the XML scan: the environment's stay what they are.
func damaged(part string, err error) error {
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok || pipeline.Hint(err) != "" {
		return err
	}
	return refuse(fmt.Sprintf("the workbook is damaged (%s): %v", part, err), "save it again from the spreadsheet program, and copy it again")
}
