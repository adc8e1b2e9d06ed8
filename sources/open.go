package sources

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"keymill/pipeline"
)

// openSource opens a manifest in whatever format its first bytes say.
func openSource(path, sheet string) (source, error) {
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
	head := make([]byte, 8)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	if bytes.HasPrefix(head[:n], []byte("PK\x03\x04")) {
		return openWorkbook(path, sheet)
	}
	if what := foreign(head[:n]); what != "" {
		return nil, refuse("the manifest is "+what, "save it as CSV UTF-8 or as XLSX, without a password")
	}
	return &csvSource{path: path}, nil
}

// foreign names the formats that people take for a manifest.
func foreign(head []byte) string {
	for _, f := range []struct{ magic, name string }{
		{"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls) or one with a password"},
		{"%PDF", "a PDF file"},
		{"\x1f\x8b", "compressed by gzip"},
		{"\xfd7zXZ", "compressed by xz"},
		{"(\xb5/\xfd", "compressed by zstd"},
		{"<?xml", "an XML file"},
		{"{\\rtf", "an RTF file"},
		{"SQLite f", "a SQLite database"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.name
		}
	}
	return ""
}
