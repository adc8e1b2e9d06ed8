package operator

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"keymill/reports"
)

//go:embed page
var pageFiles embed.FS

// pages parses the templates: they are part of the program, so an error is a bug
// that the tests find.
func pages() (*template.Template, error) {
	return template.New("").Funcs(template.FuncMap{"shape": shape}).ParseFS(pageFiles, "page/*.html")
}

// shape is the sign of a grade, so that nobody needs its colour.
func shape(grade string) template.HTML {
	paths := map[string]string{
		"ok":    `<circle cx="50" cy="50" r="46"/><path class="ink" d="M27 52l16 17 31-37"/>`,
		"busy":  `<circle cx="50" cy="50" r="46"/><path class="ink" d="M50 24v28l18 14"/>`,
		"idle":  `<circle cx="50" cy="50" r="46"/><path class="ink" d="M30 50h40"/>`,
		"warn":  `<path d="M50 4l48 90H2z"/><path class="ink" d="M50 36v28m0 12v4"/>`,
		"hold":  `<rect x="6" y="6" width="88" height="88" rx="10"/><path class="ink" d="M38 30v40m24-40v40"/>`,
		"fail":  `<rect x="4" y="4" width="92" height="92"/><path class="ink" d="M28 28l44 44m0-44l-44 44"/>`,
		"stop":  `<path d="M30 3h40l27 27v40l-27 27h-40l-27-27v-40z"/><path class="ink" d="M24 50h52"/>`,
		"ready": `<path d="M6 18h10v64H6zm16 0h5v64h-5zm13 0h14v64H35zm22 0h5v64h-5zm13 0h5v64h-5zm12 0h12v64H82z"/>`,
		"info":  `<circle cx="50" cy="50" r="46"/><path class="ink" d="M50 46v28m0-46v4"/>`,
	}
	return template.HTML(`<svg class="shape" viewBox="0 0 100 100" aria-hidden="true" focusable="false">` + paths[grade] + `</svg>`) //nolint:gosec // the texts are those above
}

func (p *Page) render(w http.ResponseWriter, name string, data any) {
	var b bytes.Buffer
	if err := p.tmpl.ExecuteTemplate(&b, name, data); err != nil {
		p.st.opt.Log.Error("the page can't be shown", "error", err)
		refuse(w, http.StatusInternalServerError, "the page can't be shown")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = b.WriteTo(w) // whoever asked has gone
}

func (p *Page) page(w http.ResponseWriter, _ *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: p.secret, Path: "/", HttpOnly: true, Secure: p.secure, SameSite: http.SameSiteStrictMode})
	v, _ := p.st.View()
	p.render(w, "page.html", struct {
		*View
		Silence int64
	}{v, cmp.Or(p.st.opt.Silence, 80*time.Millisecond).Milliseconds()})
}

func (p *Page) screen(w http.ResponseWriter, _ *http.Request) {
	v, _ := p.st.View()
	p.render(w, "screen.html", v)
}

func (p *Page) numbers(w http.ResponseWriter, _ *http.Request) {
	p.st.mu.Lock()
	n, counts, lot := p.st.numbers(), p.st.counts, p.st.opt.Lot.Name()
	p.st.mu.Unlock()
	p.render(w, "numbers.html", struct {
		Lot    string
		Counts Counts
		*Numbers
	}{lot, counts, n})
}

func (p *Page) static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	types := map[string]string{"station.js": "text/javascript; charset=utf-8", "station.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
	kind, ok := types[name]
	data, err := pageFiles.ReadFile("page/" + name)
	if !ok || err != nil {
		refuse(w, http.StatusNotFound, "there is no "+name)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(data) // whoever asked has gone
}

// codeGroup is a part of the sheet of codes.
type codeGroup struct {
	Title string
	Codes []sheetCode
}

type sheetCode struct {
	Text, Name string
	Symbol     template.HTML
	Wide       bool
}

// codes is the sheet of everything that can be scanned here, to be printed.
func (p *Page) codes(w http.ResponseWriter, r *http.Request) {
	groups, err := p.st.sheet(r.URL.Query().Get("badges") != "no")
	if err != nil {
		p.st.opt.Log.Error("the sheet of codes can't be made", "error", err)
		refuse(w, http.StatusInternalServerError, "the sheet can't be made")
		return
	}
	p.render(w, "codes.html", struct {
		Station string
		Groups  []codeGroup
	}{p.st.opt.Station, groups})
}

func (st *Station) sheet(badges bool) ([]codeGroup, error) {
	st.mu.Lock()
	var slots []string
	for _, s := range st.slots {
		if !s.extra {
			slots = append(slots, s.name)
		}
	}
	st.mu.Unlock()
	type entry struct{ text, name string }
	plan := []struct {
		title string
		list  []entry
	}{
		{"Commands", []entry{{cmdAck, "Seen, go on"}, {cmdNext, "Next unit"}, {cmdDone, "Done"}, {cmdReprint, "Print again"}, {cmdCancel, "Take back"},
			{cmdSupervisor, "Supervisor"}, {cmdScrap, "Scrap"}, {cmdEnd, "End of shift"}, {"TAKEOVER", "Use this screen"}}},
		{"Slots", nil}, {"Free a slot", nil}, {"Learn a slot", nil},
		{"Reasons", []entry{{cmdReason + " 1", "Reason 1"}, {cmdReason + " 2", "Reason 2"}, {cmdReason + " 3", "Reason 3"}, {cmdReason + " 4", "Reason 4"}, {cmdReason + " 5", "Reason 5"}}},
		{"Badges", nil},
	}
	for _, name := range slots {
		plan[1].list = append(plan[1].list, entry{cmdSlot + " " + name, "Slot " + name})
		plan[2].list = append(plan[2].list, entry{cmdDrop + " " + name, "Free slot " + name})
		plan[3].list = append(plan[3].list, entry{cmdLearn + " " + name, "Learn slot " + name})
	}
	if st.opt.Badges != nil && badges {
		for _, person := range st.opt.Badges.people {
			role := ""
			if person.Supervisor {
				role = ", supervisor"
			}
			plan[5].list = append(plan[5].list, entry{person.Badge, person.Name + role})
		}
	}
	var groups []codeGroup
	for _, part := range plan {
		if len(part.list) == 0 {
			continue
		}
		group := codeGroup{Title: part.title}
		for _, e := range part.list {
			code, err := newSheetCode(reports.SymbolCode128, e.text, e.name)
			if err != nil {
				return nil, err
			}
			group.Codes = append(group.Codes, code)
		}
		groups = append(groups, group)
	}
	wide, err := newSheetCode(reports.SymbolCode128, calibration, "Scan at the start of a shift")
	if err != nil {
		return nil, err
	}
	square, err := newSheetCode(reports.SymbolDataMatrix, calibration, "The same, for scanners of square codes")
	if err != nil {
		return nil, err
	}
	wide.Wide, square.Text, wide.Text = true, "", ""
	return append(groups, codeGroup{"Calibration", []sheetCode{wide, square}}), nil
}

func newSheetCode(kind, text, name string) (sheetCode, error) {
	svg, err := reports.SymbolSVG(kind, text)
	if err != nil {
		return sheetCode{}, fmt.Errorf("the code %q: %w", text, err)
	}
	return sheetCode{Text: text, Name: name, Symbol: template.HTML(svg)}, nil //nolint:gosec // a drawing of ours, no text in it
}
