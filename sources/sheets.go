package sources

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// sharedStringsPart is where excelize looks for them, in lower case.
const sharedStringsPart = "xl/sharedstrings.xml"

// sheetPrefix begins the names of the sheets that excelize unpacks into files if
// they are large, in lower case.
const sheetPrefix = "xl/worksheets/sheet"

// relationships is a .rels part (ECMA-376 part 2).
type relationships struct {
	Items []struct {
		ID     string `xml:"Id,attr"`
		Type   string `xml:"Type,attr"`
		Target string `xml:"Target,attr"`
	} `xml:"Relationship"`
}

// workbookPart is the little that is needed of xl/workbook.xml (ECMA-376 part
// 1, 18.2). Names are matched without namespace: strict files have another.
type workbookPart struct {
	Sheets []sheetEntry `xml:"sheets>sheet"`
}

type sheetEntry struct {
	Name  string     `xml:"name,attr"`
	State string     `xml:"state,attr"`
	Attrs []xml.Attr `xml:",any,attr"`
}

func (s sheetEntry) relation() string {
	for _, a := range s.Attrs {
		if a.Name.Local == "id" && a.Name.Space != "" {
			return a.Value
		}
	}
	return ""
}

func (s sheetEntry) hidden() bool { return s.State == "hidden" || s.State == "veryHidden" }

// maxIndexPart limits the parts that are read whole.
const maxIndexPart = 4 << 20

func (w *workbook) decode(part string, into any) error {
	r, err := w.openPart(part)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := xml.NewDecoder(io.LimitReader(r, maxIndexPart)).Decode(into); err != nil {
		return damaged(part, err)
	}
	return nil
}

// chooseSheet finds the sheet with the devices and returns its part.
func (w *workbook) chooseSheet(wanted string) (string, error) {
	sheets, parts, err := w.worksheets()
	if err != nil {
		return "", err
	}
	var all []string
	var candidates []sheetEntry
	for _, s := range sheets {
		all = append(all, fmt.Sprintf("%q", s.Name))
		if wanted == "" && !s.hidden() || wanted != "" && strings.EqualFold(s.Name, wanted) {
			candidates = append(candidates, s)
		}
	}
	list := strings.Join(all, ", ")
	switch {
	case len(candidates) == 1:
	case wanted != "":
		return "", refuse(fmt.Sprintf("the workbook has no sheet %q", wanted), "its sheets are %s", list)
	case len(candidates) == 0:
		return "", refuse("the workbook has no visible sheet", "show the sheet with the devices; its sheets are %s", list)
	default:
		return "", refuse(fmt.Sprintf("the workbook has %d visible sheets", len(candidates)), "name the one with the devices (manifest.sheet, --sheet); its sheets are %s", list)
	}
	s := candidates[0]
	if s.hidden() {
		w.notes = append(w.notes, Problem{What: fmt.Sprintf("the sheet %q is hidden", s.Name), Remedy: "make sure that it is the right one", Warning: true})
	}
	w.sheet = s.Name
	return parts[s.relation()], nil
}

// worksheets lists the workbook's sheets with cells, not charts and dialogs, and
// their parts by relation.
func (w *workbook) worksheets() ([]sheetEntry, map[string]string, error) {
	var root, rels relationships
	if err := w.decode("_rels/.rels", &root); err != nil {
		return nil, nil, err
	}
	main := ""
	for _, r := range root.Items {
		if strings.HasSuffix(r.Type, "/officeDocument") {
			main = resolve("", r.Target)
		}
	}
	var book workbookPart
	if err := w.decode(main, &book); err != nil {
		return nil, nil, err
	}
	if err := w.decode(path.Join(path.Dir(main), "_rels", path.Base(main)+".rels"), &rels); err != nil {
		return nil, nil, err
	}
	parts := map[string]string{}
	for _, r := range rels.Items {
		if strings.HasSuffix(r.Type, "/worksheet") {
			parts[r.ID] = resolve(path.Dir(main), r.Target)
		}
	}
	sheets := slices.DeleteFunc(book.Sheets, func(s sheetEntry) bool { return parts[s.relation()] == "" })
	return sheets, parts, nil
}

// resolve returns the part that a relationship's target names.
func resolve(dir, target string) string {
	target = strings.ReplaceAll(target, "\\", "/")
	if abs, ok := strings.CutPrefix(target, "/"); ok {
		return path.Clean(abs)
	}
	return path.Join(dir, target)
}

// sharedStrings is what is known of the table of shared strings.
type sharedStrings struct {
	count int
	// own marks strings that are their own index in decimal: for others,
	// excelize returning the index means that it could not look them up.
	own []uint64
}

func (s *sharedStrings) isOwn(i int) bool {
	return i/64 < len(s.own) && s.own[i/64]>>(i%64)&1 == 1
}

// countStrings reads the shared strings to their end.
func (w *workbook) countStrings() error {
	f, ok := w.parts[sharedStringsPart]
	if !ok {
		return nil
	}
	r, err := w.openPart(f.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	x := newXMLScan(r)
	for {
		err := x.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged("shared strings", err)
		}
		switch {
		case x.end && string(x.name) == "si":
			w.strings.count++
		case !x.start && string(x.name) == "t" && len(x.text) > 0 && len(x.text) < 10:
			w.strings.note(x.text)
		}
	}
}

// note marks the string being read if its text is its index.
func (s *sharedStrings) note(text []byte) {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return
		}
		n = n*10 + int(c-'0')
	}
	if n != s.count {
		return
	}
	for len(s.own) <= n/64 {
		s.own = append(s.own, 0)
	}
	s.own[n/64] |= 1 << (n % 64)
}
