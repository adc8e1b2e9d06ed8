package reports

import (
	"archive/zip"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
)

// contentTypes is the part of an Office package that lists the types of all
// others (ECMA-376 part 2). Readers that sniff expect it first.
const contentTypes = "[Content_Types].xml"

// settleXLSX copies a workbook with its parts in a fixed order: excelize
// writes streamed sheets and content types in the order of maps, and an export
// must give the same bytes twice. Sheets are not compressed again.
func settleXLSX(raw *os.File, bundle *bundleDir, name string) error {
	size, err := raw.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	src, err := zip.NewReader(raw, size)
	if err != nil {
		return err
	}
	slices.SortFunc(src.File, func(a, b *zip.File) int { return strings.Compare(a.Name, b.Name) })
	out, err := bundle.create(name)
	if err != nil {
		return err
	}
	defer out.Abort()
	dst := zip.NewWriter(out)
	if err := copyContentTypes(dst, src); err != nil {
		return err
	}
	for _, f := range src.File {
		if f.Name == contentTypes {
			continue
		}
		if err := dst.Copy(f); err != nil {
			return err
		}
	}
	return errors.Join(dst.Close(), out.Close())
}

// typeList is the content of contentTypes.
type typeList struct {
	XMLName   xml.Name          `xml:"http://schemas.openxmlformats.org/package/2006/content-types Types"`
	Defaults  []typeByExtension `xml:"Default"`
	Overrides []struct {
		PartName    string `xml:",attr"`
		ContentType string `xml:",attr"`
	} `xml:"Override"`
}

type typeByExtension struct {
	Extension   string `xml:",attr"`
	ContentType string `xml:",attr"`
}

// copyContentTypes writes the types in order.
func copyContentTypes(dst *zip.Writer, src *zip.Reader) error {
	in, err := src.Open(contentTypes)
	if err != nil {
		return err
	}
	defer in.Close()
	var list typeList
	if err := xml.NewDecoder(in).Decode(&list); err != nil {
		return err
	}
	slices.SortFunc(list.Defaults, func(a, b typeByExtension) int { return strings.Compare(a.Extension, b.Extension) })
	out, err := dst.Create(contentTypes)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return err
	}
	return xml.NewEncoder(out).Encode(list)
}
