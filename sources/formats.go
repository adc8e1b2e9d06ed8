package sources

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/xuri/excelize/v2"
)

// formats are the number formats of a workbook's cells, as excelize reads and
// applies them. It is given the workbook without its sheets and shared strings,
// and one empty sheet in which single values are formatted.
type formats struct {
	book     *excelize.File
	known    map[int]format
	shown    map[formatted]string // what was asked lately
	from1904 bool                 // the date system
}

// format is what a cell's style does to its value.
type format struct {
	exists bool
	date   bool   // numbers are shown as dates or times
	text   bool   // texts are shown otherwise than they are stored
	plain  bool   // numbers are shown as they are stored
	layout string // of simple dates, for package time
}

type formatted struct {
	style int
	value string
	text  bool
}

// Where excelize looks for the parts of the reduced workbook.
const (
	bookPart    = "xl/workbook.xml"
	bookRels    = "xl/_rels/workbook.xml.rels"
	stylesPart  = "xl/styles.xml"
	scratchPart = "xl/worksheets/sheet1.xml"

	relationNS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
	maxShownBy = 4096 // values kept in formats.shown
)

// openFormats opens the workbook's styles and date system by excelize.
func (w *workbook) openFormats(main, styles string, sheets []sheetEntry) (*formats, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	rels := `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">`
	for _, s := range sheets {
		rels += fmt.Sprintf(`<Relationship Id=%q Type="%s/worksheet" Target="worksheets/sheet1.xml"/>`, escapeXML(s.relation()), relationNS)
	}
	parts := []struct{ name, from, content string }{
		{"[Content_Types].xml", "", `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>`},
		{"_rels/.rels", "", `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="` + relationNS + `/officeDocument" Target="` + bookPart + `"/></Relationships>`},
		{bookPart, main, ""},
		{bookRels, "", rels + "</Relationships>"},
		{stylesPart, styles, ""},
		{scratchPart, "", `<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData/></worksheet>`},
	}
	for _, p := range parts {
		if p.from == "" && p.content == "" {
			continue // a workbook without styles
		}
		to, err := z.Create(p.name)
		if err != nil {
			return nil, err
		}
		if p.from == "" {
			if _, err := io.WriteString(to, p.content); err != nil {
				return nil, err
			}
			continue
		}
		if err := w.copyPart(to, p.from); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	book, err := excelize.OpenReader(&b)
	if err != nil {
		return nil, refuse("the workbook cannot be opened: "+err.Error(), "save it again from the spreadsheet program, as XLSX without a password")
	}
	props, err := book.GetWorkbookProps()
	if err != nil {
		return nil, errors.Join(damaged(main, err), book.Close())
	}
	return &formats{book: book, known: map[int]format{}, shown: map[formatted]string{}, from1904: props.Date1904 != nil && *props.Date1904}, nil
}

func (w *workbook) copyPart(to io.Writer, part string) error {
	from, err := w.openPart(part)
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := io.Copy(to, from); err != nil {
		return damaged(part, err)
	}
	return nil
}

func escapeXML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}

func (f *formats) Close() error {
	if f == nil || f.book == nil {
		return nil
	}
	return f.book.Close()
}

// of returns what a style does.
func (f *formats) of(style int) format {
	is, known := f.known[style]
	if !known {
		is = f.look(style)
		f.known[style] = is
	}
	return is
}

func (f *formats) look(style int) format {
	s := f.book.Styles
	if s == nil || s.CellXfs == nil || style < 0 || style >= len(s.CellXfs.Xf) {
		// A workbook without styles has the default one.
		return format{exists: style == 0, plain: style == 0}
	}
	id := 0
	if n := s.CellXfs.Xf[style].NumFmtID; n != nil {
		id = *n
	}
	if s.NumFmts != nil {
		for _, n := range s.NumFmts.NumFmt {
			if n.NumFmtID == id {
				code := n.FormatCode
				if n.FormatCode16 != "" {
					code = n.FormatCode16
				}
				f := format{exists: true, date: dateCode(code), text: altersText(code), plain: code == "" || strings.EqualFold(code, "General") || code == "@"}
				f.layout, _ = dateLayout(code)
				return f
			}
		}
	}
	return format{exists: true, date: dateFormat(id), plain: id == 0 || id == 49}
}

// as returns a value as the workbook shows it, "" for one that its format hides
// or that excelize cannot format.
func (f *formats) as(style int, value string, text bool) string {
	if is := f.of(style); is.date && is.layout != "" && !text {
		if v, ok := dateAs(value, is.layout, f.from1904); ok {
			return v
		}
	}
	key := formatted{style, value, text}
	v, ok := f.shown[key]
	if !ok {
		if len(f.shown) >= maxShownBy {
			clear(f.shown)
		}
		v = f.apply(key)
		f.shown[key] = v
	}
	return v
}

func (f *formats) apply(v formatted) (shown string) {
	// Formats are foreign: one that excelize stumbles over must not end the
	// program.
	defer func() {
		if recover() != nil {
			shown = ""
		}
	}()
	names := f.book.GetSheetList()
	if len(names) == 0 {
		return ""
	}
	set := f.book.SetCellDefault
	if v.text {
		set = f.book.SetCellStr
	}
	if set(names[0], "A1", v.value) != nil || f.book.SetCellStyle(names[0], "A1", "A1", v.style) != nil {
		return ""
	}
	shown, err := f.book.GetCellValue(names[0], "A1")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(shown)
}

// dateFormat reports whether a built-in number format is a date's or a time's
// (ECMA-376 part 1, 18.8.30).
func dateFormat(id int) bool {
	return id >= 14 && id <= 22 || id >= 27 && id <= 36 || id >= 45 && id <= 47 || id >= 50 && id <= 58
}

// formatTokens walks over a number format code (ECMA-376 part 1, 18.8.31): each
// is called for what is neither quoted, escaped, in brackets nor spacing; a
// bracket's content, a literal's character and the end of a section come as
// kinds of their own.
func formatTokens(code string, each func(kind, r rune)) {
	quoted, bracket := false, false
	rest := []rune(code)
	for i := 0; i < len(rest); i++ {
		r := rest[i]
		switch {
		case quoted && r == '"', !quoted && !bracket && r == '"':
			quoted = !quoted
		case quoted:
			each('"', r)
		case bracket && r == ']':
			bracket = false
			each(']', r)
		case bracket:
			each('[', r)
		case r == '[':
			bracket = true
		case r == '\\' || r == '!':
			if i++; i < len(rest) {
				each('"', rest[i])
			}
		case r == '_' || r == '*': // room as wide as the next character, or filled with it
			i++
		case r == ';':
			each(';', r)
		default:
			each(0, r)
		}
	}
}

// dateCode reports whether a number format code shows dates or times: it has one
// of their letters outside quotes and brackets, or an elapsed time's in them.
func dateCode(code string) bool {
	date, elapsed, other := false, false, false
	formatTokens(strings.ToLower(code), func(kind, r rune) {
		switch {
		case kind == '[':
			if strings.ContainsRune("hms", r) {
				elapsed = true
			} else {
				other = true
			}
		case kind == ']':
			date = date || elapsed && !other
			elapsed, other = false, false
		case kind == 0 && strings.ContainsRune("ymdhs", r):
			date = true
		}
	})
	return date
}

// altersText reports whether a number format code shows a text otherwise than it
// is stored: its section for texts, the fourth one or the last one if that has an
// @, holds more than the @ and spacing.
func altersText(code string) bool {
	sections := []string{""}
	at := []bool{false}
	formatTokens(code, func(kind, r rune) {
		last := len(sections) - 1
		switch kind {
		case ';':
			sections, at = append(sections, ""), append(at, false)
		case '[', ']':
		default:
			sections[last] += string(r)
			at[last] = at[last] || kind == 0 && r == '@'
		}
	})
	last := len(sections) - 1
	if last != 3 && !at[last] {
		return false
	}
	text := strings.TrimSpace(sections[last])
	return text != "@" && !strings.EqualFold(text, "General")
}
