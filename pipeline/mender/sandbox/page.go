package sandbox

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

// pageSize is how many devices the page for people shows at once.
const pageSize = 50

// openRows is up to how many rows a search shows in full.
const openRows = 5

// pageData is what the template shows.
type pageData struct {
	Query, Status string
	Refresh       int // seconds; 0: the page stands still
	Tiles         []tile
	Rows          []pageRow
	From, To      int
	Matches       int
	Prev, Next    string // queries of the neighbour pages; empty at the ends
	Toggle        string // query that switches the refreshing
	Requests      int64
	InFlight      int
	Answers       []pageCount
	Faults        []string
	Limit         int
	Open          bool // show the rows' auth sets
}

type tile struct {
	Name, Link string
	Count      int
	Chosen     bool
}

type pageCount struct {
	Name  string
	Count int64
	Bad   bool
}

type pageRow struct {
	Attrs           [][2]string
	ID, Status      string
	Decommissioning bool
	Sets            []pageSet
	Created         string
	Note            string // what is odd about it
}

type pageSet struct{ ID, Status, Key, Fingerprint, Time string }

// people answers "/" with a page that lists the devices: for people who try the
// sandbox out, so it asks for no token. It shows public keys only.
func (s *Sandbox) people() (http.Handler, error) {
	page, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's page: %w", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.store.reap(time.Now())
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
		h.Set("Cache-Control", "no-store")
		if err := page.Execute(w, s.pageData(r.URL.Query())); err != nil {
			s.log.DebugContext(r.Context(), "sandbox page", "error", err) // the reader has gone
		}
	}), nil
}

func (s *Sandbox) pageData(query url.Values) pageData {
	stats := s.Stats()
	data := pageData{
		Query: strings.TrimSpace(query.Get("q")), Status: query.Get("status"),
		Tiles: tiles(stats, query), Faults: s.faults.Load().faults.describe(),
		Requests: stats.Requested(), InFlight: stats.InFlight, Answers: answers(stats), Limit: s.cfg.MaxDevices,
	}
	data.Refresh, _ = strconv.Atoi(query.Get("refresh")) // anything else: stands still
	data.Refresh = min(max(data.Refresh, 0), 60)
	data.Toggle = with(query, "refresh", map[bool]string{true: "", false: "2"}[data.Refresh > 0])
	page, err := strconv.Atoi(query.Get("page"))
	if err != nil || page < 1 || page > maxCount {
		page = 1
	}
	found, matches := s.store.look(newLookup(data.Query, data.Status), (page-1)*pageSize, pageSize)
	data.Matches = matches
	for _, d := range found {
		data.Rows = append(data.Rows, newPageRow(d.Device, d.created))
	}
	data.Open = data.Query != "" && len(data.Rows) <= openRows
	data.From, data.To = (page-1)*pageSize+1, (page-1)*pageSize+len(found)
	if page > 1 {
		data.Prev = with(query, "page", strconv.Itoa(page-1))
	}
	if data.To < matches && len(found) > 0 {
		data.Next = with(query, "page", strconv.Itoa(page+1))
	}
	return data
}

// with returns the query with one parameter changed; another filter starts again
// at its first page.
func with(query url.Values, name, value string) string {
	q := url.Values{}
	for k, v := range query {
		if k != name && (k != "page" || name == "refresh") {
			q[k] = v
		}
	}
	if value != "" {
		q.Set(name, value)
	}
	return "?" + q.Encode()
}

func tiles(stats Stats, query url.Values) []tile {
	chosen := query.Get("status")
	all := []tile{{Name: "all", Link: with(query, "status", ""), Chosen: chosen == ""}}
	for _, s := range []status{preauthorized, accepted, pending, rejected, noauth} {
		n := stats.Devices[s.String()]
		all[0].Count += n
		all = append(all, tile{s.String(), with(query, "status", s.String()), n, chosen == s.String()})
	}
	return all
}

func answers(stats Stats) []pageCount {
	var out []pageCount
	for code, n := range stats.Answers {
		name := strconv.Itoa(code)
		if code == 0 {
			name = "cut"
		}
		out = append(out, pageCount{name, n, code == 0 || code >= 400})
	}
	slices.SortFunc(out, func(a, b pageCount) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func newPageRow(d Device, created int64) pageRow {
	row := pageRow{
		ID: d.ID, Status: d.Status, Decommissioning: d.Decommissioning,
		Created: pageTime(time.UnixMicro(created)), Attrs: attrs(d.Identity),
	}
	for _, a := range d.AuthSets {
		sum := sha256.Sum256(a.SPKI)
		row.Sets = append(row.Sets, pageSet{a.ID, a.Status, keyKind(a.SPKI), hex.EncodeToString(sum[:]), pageTime(a.Time)})
	}
	switch len(row.Sets) {
	case 0:
		row.Note = "no key"
	case 1:
	default:
		row.Note = fmt.Sprintf("%d keys", len(row.Sets))
	}
	return row
}

func pageTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// attrs splits an identity into its pairs, sorted by name.
func attrs(identity string) [][2]string {
	var values map[string]json.RawMessage
	if err := json.Unmarshal([]byte(identity), &values); err != nil {
		return [][2]string{{"identity", identity}}
	}
	var out [][2]string
	for name, raw := range values {
		value := string(raw)
		var text string
		if json.Unmarshal(raw, &text) == nil {
			value = text
		}
		out = append(out, [2]string{name, value})
	}
	slices.SortFunc(out, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return out
}

func keyKind(spki []byte) string {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return "unknown key"
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown key"
}

// describe says in words what goes wrong.
func (f *Faults) describe() []string {
	var out []string
	say := func(on bool, format string, args ...any) {
		if on {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	say(f.QuotaPerMin > 0, "quota %d/min", f.QuotaPerMin)
	say(f.Capacity > 0, "%d calls at once", f.Capacity)
	say(f.Latency > 0, "latency %v", f.Latency)
	say(f.Latency > 0 && f.LatencyP95 > f.Latency, "95 %% below %v", f.LatencyP95)
	say(f.Fail > 0, "%g %% fail", f.Fail*100)
	say(f.Reset > 0, "%g %% cut", f.Reset*100)
	say(f.Stored500 > 0, "%g %% stored but 500", f.Stored500*100)
	say(f.Orphan500 > 0, "%g %% orphaned", f.Orphan500*100)
	for _, r := range f.Plan {
		out = append(out, r.String())
	}
	return out
}
