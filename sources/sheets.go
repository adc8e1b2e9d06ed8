package sources

import (
	"encoding/xml"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// relationships is a .rels part (ECMA-376 part 2).
type relationships struct {
	Items []struct {
		ID     string `xml:"Id,attr"`
		Type   string `xml:"Type,attr"`
		Target string `xml:"Target,attr"`
		Mode   string `xml:"TargetMode,attr"`
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

// bookParts is what a workbook consists of.
type bookParts struct {
	main, styles, strings string // part names; styles and strings may be empty
	sheets                []sheetEntry
	parts                 map[string]string // of the sheets, by relation
}

// worksheets lists the workbook's sheets with cells, not charts and dialogs, and
// their parts.
func (w *workbook) worksheets() (b bookParts, err error) {
	var root, rels relationships
	if err := w.decode("_rels/.rels", &root); err != nil {
		return b, err
	}
	for _, r := range root.Items {
		if strings.HasSuffix(r.Type, "/officeDocument") {
			b.main = resolve("", r.Target)
		}
	}
	var book workbookPart
	if err := w.decode(b.main, &book); err != nil {
		return b, err
	}
	dir := path.Dir(b.main)
	if err := w.decode(path.Join(dir, "_rels", path.Base(b.main)+".rels"), &rels); err != nil {
		return b, err
	}
	b.parts = map[string]string{}
	for _, r := range rels.Items {
		target := resolve(dir, r.Target)
		if _, ok := w.parts[partName(target)]; !ok {
			// Some writers relate parts from the archive's root.
			target = w.related("", resolve("", r.Target))
			if target == "" {
				target = resolve(dir, r.Target)
			}
		}
		switch {
		case r.Mode == "External":
		case strings.HasSuffix(r.Type, "/worksheet"):
			b.parts[r.ID] = target
		case strings.HasSuffix(r.Type, "/styles"):
			b.styles = target
		case strings.HasSuffix(r.Type, "/sharedStrings"):
			b.strings = target
		}
	}
	// Some writers have a part and forget to relate it.
	b.strings = w.related(b.strings, path.Join(dir, "sharedStrings.xml"))
	b.styles = w.related(b.styles, path.Join(dir, "styles.xml"))
	b.sheets = slices.DeleteFunc(book.Sheets, func(s sheetEntry) bool { return b.parts[s.relation()] == "" })
	return b, nil
}

// related returns the part that a relationship names, else the usual one if the
// archive has it.
func (w *workbook) related(part, usual string) string {
	if _, ok := w.parts[partName(usual)]; part == "" && ok {
		return usual
	}
	return part
}

// chooseSheet finds the sheet with the devices: the one that is named, the only
// visible one, or the only visible one whose columns map.
func (w *workbook) chooseSheet(book bookParts) error {
	wanted := w.cfg.Sheet
	var all []string
	var candidates []sheetEntry
	for _, s := range book.sheets {
		all = append(all, fmt.Sprintf("%q", s.Name))
		if wanted == "" && !s.hidden() || wanted != "" && strings.EqualFold(s.Name, wanted) {
			candidates = append(candidates, s)
		}
	}
	list := strings.Join(all, ", ")
	switch {
	case len(candidates) == 1:
	case wanted != "":
		return refuse(fmt.Sprintf("the workbook has no sheet %q", wanted), "its sheets are %s", list)
	case len(candidates) == 0:
		return refuse("the workbook has no visible sheet", "show the sheet with the devices; its sheets are %s", list)
	default:
		var err error
		if candidates, err = w.tellSheets(book, candidates, list); err != nil {
			return err
		}
	}
	s := candidates[0]
	if s.hidden() {
		w.notes = append(w.notes, Problem{What: fmt.Sprintf("the sheet %q is hidden", s.Name), Remedy: "make sure that it is the right one", Warning: true})
	}
	w.sheet, w.part = s.Name, book.parts[s.relation()]
	return nil
}

// tellSheets finds the one of several visible sheets that holds the devices. The
// others must have nothing that looks like a device: a sheet that goes on where
// another ends must not be left out.
func (w *workbook) tellSheets(book bookParts, candidates []sheetEntry, list string) ([]sheetEntry, error) {
	var mapped, doubtful []sheetEntry
	for _, s := range candidates {
		w.sheet, w.part = s.Name, book.parts[s.relation()]
		maps, devices, err := w.tellSheet()
		if err != nil {
			return nil, err
		}
		if maps {
			mapped = append(mapped, s)
		} else if devices {
			doubtful = append(doubtful, s)
		}
	}
	if len(mapped) == 1 && len(doubtful) == 0 {
		w.notes = append(w.notes, Problem{What: fmt.Sprintf("of %d visible sheets only %q has the columns of a manifest; the others are left out", len(candidates), mapped[0].Name),
			Remedy: "make sure that it is the right one; --sheet and manifest.sheet name it", Warning: true})
		return mapped, nil
	}
	return nil, refuse(fmt.Sprintf("the workbook has %d visible sheets", len(candidates)), "name the one with the devices (manifest.sheet, --sheet); its sheets are %s", list)
}

// tellSheet reports whether the columns of the current sheet map, and whether a
// row of it looks like a device's.
func (w *workbook) tellSheet() (maps, devices bool, err error) {
	pass, err := w.open()
	if err != nil {
		return false, false, err
	}
	defer pass.Close()
	sample, err := readSample(pass)
	if err != nil {
		return false, false, err
	}
	if _, err := sample.header(w.cfg); err == nil {
		l := newLayout(&sample.rows[sample.at], w.cfg)
		maps = l.mapped(w.cfg)
	}
	for _, r := range sample.rows {
		for _, v := range r.values {
			if _, err := ParseMAC(v); err == nil {
				devices = true
			}
		}
	}
	return maps, devices, nil
}

// resolve returns the part that a relationship's target names.
func resolve(dir, target string) string {
	target = strings.ReplaceAll(target, "\\", "/")
	if abs, ok := strings.CutPrefix(target, "/"); ok {
		return path.Clean(abs)
	}
	return path.Join(dir, target)
}
