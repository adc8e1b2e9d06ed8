package sources

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"keymill/pipeline"
)

// headSize is how much of a file tells its format.
const headSize = 1 << 12

// openSource opens a manifest in whatever format its first bytes say.
func openSource(path string, cfg Config) (source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, pipeline.WithHint(fmt.Errorf("the manifest cannot be read: %w", err), "check the path and its permissions")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, pipeline.WithHint(fmt.Errorf("%s is not a file", path), "a manifest is read twice: give the path of a CSV or XLSX file")
	}
	head := make([]byte, headSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06")) {
		return openWorkbook(path, cfg)
	}
	what := foreign(head)
	if what == "" && bytes.HasPrefix(head, []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")) {
		if what, err = compound(io.MultiReader(bytes.NewReader(head), f)); err != nil {
			return nil, fmt.Errorf("the manifest cannot be read: %w", err)
		}
	}
	if what != "" {
		return nil, refuse("the manifest is "+what, "save it as CSV UTF-8 or as XLSX, without a password")
	}
	firstLine, _, _ := bytes.Cut(head, []byte("\n"))
	if cfg.Sheet != "" && !bytes.Contains(firstLine, []byte(ownState)) { // our own failures.csv is run with the settings of its workbook
		return nil, refuse("the manifest is a CSV file, which has no sheets", "leave out --sheet and manifest.sheet, or give the workbook")
	}
	return &csvSource{path: path}, nil
}

// foreign names the formats that people take for a manifest, by what a file
// begins with.
func foreign(head []byte) string {
	for _, f := range []struct{ magic, name string }{
		{"%PDF", "a PDF file"},
		{"\x1f\x8b", "compressed by gzip"},
		{"\xfd7zXZ", "compressed by xz"},
		{"(\xb5/\xfd", "compressed by zstd"},
		{"BZh", "compressed by bzip2"},
		{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
		{"Rar!", "a RAR archive"},
		{"{\\rtf", "an RTF file"},
		{"SQLite f", "a SQLite database"},
		{"PAR1", "a Parquet file"},
		{"ID;P", "a SYLK file (.slk)"},
		{"\x89PNG", "a picture"},
		{"\xff\xd8\xff", "a picture"},
		{"\x7fELF", "a program"},
		{"\x09\x08\x10\x00", "an old Excel workbook (.xls)"},
		{"\x09\x08\x08\x00", "an old Excel workbook (.xls)"},
		{"\x09\x04\x06\x00", "an old Excel workbook (.xls)"},
		{"\x09\x02\x06\x00", "an old Excel workbook (.xls)"},
		{"\x09\x00\x04\x00", "an old Excel workbook (.xls)"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.name
		}
	}
	return foreignText(head)
}

// foreignText names text formats that are no CSV.
func foreignText(head []byte) string {
	text := bytes.TrimLeft(bytes.TrimPrefix(bytes.ReplaceAll(head, []byte{0}, nil), []byte("\xef\xbb\xbf")), "\xff\xfe \t\r\n")
	low := bytes.ToLower(text)
	has := func(s string) bool { return bytes.Contains(low, []byte(s)) }
	begins := func(all ...string) bool {
		for _, s := range all {
			if bytes.HasPrefix(low, []byte(s)) {
				return true
			}
		}
		return false
	}
	switch {
	case begins("<?xml", "<workbook"):
		switch {
		case has("schemas-microsoft-com:office:spreadsheet"):
			return "an XML spreadsheet of Excel 2003"
		case has("opendocument"):
			return "an OpenDocument file (.fods)"
		case has("<html"):
			return "an HTML page, whatever its name says"
		}
		return "an XML file"
	case begins("<!doctype html", "<html", "<head", "<body", "<table", "<meta", "<!--", "<style", "<div"):
		return "an HTML page, whatever its name says"
	case begins("mime-version:"):
		return "a web archive (MHTML), whatever its name says"
	}
	if len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		if rest := bytes.TrimLeft(text[1:], " \t\r\n"); len(rest) > 0 && bytes.IndexByte([]byte(`"{[]}`), rest[0]) >= 0 {
			return "a JSON file, whatever its name says"
		}
	}
	return ""
}

// compound tells what a compound file (MS-CFB) holds by the names in its
// directory, which are UTF-16.
func compound(r io.Reader) (string, error) {
	const keep = 64
	block := make([]byte, keep+1<<16)
	old := 0
	for {
		n, err := io.ReadFull(r, block[old:])
		seen := block[:old+n]
		for _, f := range []struct{ stream, name string }{
			{"EncryptedPackage", "a workbook with a password"},
			{"WordDocument", "an old Word document (.doc)"},
		} {
			if bytes.Contains(seen, wide(f.stream)) {
				return f.name, nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "an old Excel workbook (.xls)", nil
		}
		if err != nil {
			return "", err
		}
		old = copy(block, seen[len(seen)-keep:])
	}
}

// wide returns ASCII as UTF-16.
func wide(s string) []byte {
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = append(b, s[i], 0)
	}
	return b
}
