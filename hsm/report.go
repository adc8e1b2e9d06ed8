package hsm

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Listing is what a module shows without a login: `hsm list`.
type Listing struct {
	Module  string      `json:"module"`
	Version string      `json:"version"`
	Tokens  []TokenInfo `json:"tokens"`
}

// TokenInfo describes one token. Numbers are nil where the token doesn't tell.
type TokenInfo struct {
	URI          string   `json:"uri"` // names this token and no other of the module
	Label        string   `json:"label"`
	Serial       string   `json:"serial"`
	Model        string   `json:"model"`
	Manufacturer string   `json:"manufacturer"`
	Hardware     string   `json:"hardware"` // version
	Firmware     string   `json:"firmware"` // version
	State        []string `json:"state"`    // "initialized", "login required", "PIN locked", ..
	// Memory for objects, bytes.
	FreePublic  *uint64 `json:"free_public,omitempty"`
	FreePrivate *uint64 `json:"free_private,omitempty"`
	// Sessions that the token allows at once, and that are open now.
	MaxSessions  *uint64 `json:"max_sessions,omitempty"` // absent: no limit, or not told
	OpenSessions *uint64 `json:"open_sessions,omitempty"`
	// Mechanisms are those that keymill could use. What they do is found out by Test.
	Mechanisms []string `json:"mechanisms"`
	// Keys is filled in by Inventory only.
	Keys []KeyInfo `json:"keys,omitempty"`
}

// KeyInfo is a key pair that lies in a token.
type KeyInfo struct {
	Label     string `json:"label"`
	ID        string `json:"id"`                    // hexadecimal
	Algorithm string `json:"algorithm"`             // "" where no public half tells
	SPKI      string `json:"spki_sha256,omitempty"` // hexadecimal
}

// WriteTable writes the listing for people.
func (l *Listing) WriteTable(w io.Writer) error {
	t := newTable(w)
	t.row("module", l.Module)
	t.row("version", l.Version)
	if len(l.Tokens) == 0 {
		t.row("tokens", "none")
	}
	for i := range l.Tokens {
		k := &l.Tokens[i]
		t.row("")
		t.row("token", k.URI)
		t.row("  state", strings.Join(k.State, ", "))
		t.row("  hardware, firmware", k.Hardware+", "+k.Firmware)
		t.row("  free memory", "public "+number(k.FreePublic)+", private "+number(k.FreePrivate))
		t.row("  sessions", number(k.OpenSessions)+" open of "+number(k.MaxSessions))
		t.row("  mechanisms", strings.Join(k.Mechanisms, " "))
		for _, key := range k.Keys {
			what := key.Algorithm + " sha256 " + key.SPKI
			if key.SPKI == "" {
				what = "a private key without a public half that is known here"
			}
			t.row("  key", fmt.Sprintf("%s id=%s %s", key.Label, key.ID, what))
		}
	}
	return t.flush()
}

func number(n *uint64) string {
	if n == nil {
		return "unknown"
	}
	return strconv.FormatUint(*n, 10)
}

// TestReport is what a token turned out to do: `hsm test`.
type TestReport struct {
	Origin Origin   `json:"token"` // of the token; Mode and Algorithm are empty
	Checks []Check  `json:"checks"`
	Usable []Usable `json:"usable"`
	// Verdict is what to do, in a sentence or two.
	Verdict string `json:"verdict"`
}

// verdict says which source to take: the first that works, in the order in which
// they keep most of a key's life in the HSM.
func (r *TestReport) verdict() string {
	how := map[Mode]string{
		ModeHSM: "makes keys that leave it wrapped", ModeEntropy: "gives random numbers for keys that are made here", ModeToken: "keeps keys for itself, for devices that it ships with",
	}
	var parts []string
	for _, mode := range []Mode{ModeHSM, ModeEntropy, ModeToken} {
		var works []string
		for _, u := range r.Usable {
			if u.Mode == mode && u.OK {
				works = append(works, string(u.Algorithm))
			}
		}
		if len(works) > 0 {
			parts = append(parts, fmt.Sprintf("--keys %s (it %s): --algorithm %s", mode, how[mode], strings.Join(works, ", ")))
		}
	}
	if len(parts) == 0 {
		return "This token is of no use for the algorithms that were tried: the lines above say why. Use --keys software, or another token."
	}
	return "This token can be used. " + strings.Join(parts, "; ") + "."
}

// Check is one thing that was tried.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // why not
}

// Usable says whether a source of keys works for an algorithm.
type Usable struct {
	Mode      Mode      `json:"mode"`
	Algorithm Algorithm `json:"algorithm"`
	OK        bool      `json:"ok"`
	How       string    `json:"how"` // the mechanism, or why not
}

// WriteTable writes the report for people.
func (r *TestReport) WriteTable(w io.Writer) error {
	t := newTable(w)
	t.row("token", r.Origin.TokenLabel, r.Origin.TokenModel)
	t.row("serial", r.Origin.TokenSerial, "")
	t.row("module", r.Origin.Module, r.Origin.ModuleVersion)
	t.row("")
	t.row("TRIED", "RESULT", "")
	for _, c := range r.Checks {
		t.row(c.Name, yesNo(c.OK), c.Detail)
	}
	t.row("")
	t.row("KEYS", "ALGORITHM", "WORKS", "HOW, OR WHY NOT")
	for _, u := range r.Usable {
		t.row(string(u.Mode), string(u.Algorithm), yesNo(u.OK), u.How)
	}
	for _, warning := range r.Origin.Warnings {
		t.row("")
		t.row("note: " + warning)
	}
	t.row("")
	t.row(r.Verdict)
	return t.flush()
}

func yesNo(ok bool) string {
	if ok {
		return "ok"
	}
	return "no"
}

// BenchReport is how fast a token makes keys: `hsm bench`.
type BenchReport struct {
	Token string     `json:"token"` // URI
	Rows  []BenchRow `json:"rows"`
	Best  []BenchRow `json:"best"` // for each algorithm, the fewest sessions within 5 % of the fastest
}

// BenchRow is one measurement: whole cycles, from generation to the PEM.
type BenchRow struct {
	Algorithm     Algorithm     `json:"algorithm"`
	Sessions      int           `json:"sessions"`
	Keys          int           `json:"keys"`
	Duration      time.Duration `json:"duration_ns"`
	KeysPerSecond float64       `json:"keys_per_second"`
	Problem       string        `json:"problem,omitempty"` // why there is no figure
}

// WriteTable writes the report for people.
func (r *BenchReport) WriteTable(w io.Writer) error {
	t := newTable(w)
	t.row("token", r.Token)
	t.row("")
	t.row("ALGORITHM", "SESSIONS", "KEYS/S", "")
	for _, row := range r.Rows {
		mark := row.Problem
		for _, best := range r.Best {
			if best.Algorithm == row.Algorithm && best.Sessions == row.Sessions {
				mark = "best (keys.sessions)"
			}
		}
		t.row(string(row.Algorithm), strconv.Itoa(row.Sessions), strconv.FormatFloat(row.KeysPerSecond, 'f', 1, 64), mark)
	}
	return t.flush()
}

// GCReport is what was left behind in a token: `hsm gc`.
type GCReport struct {
	DryRun bool       `json:"dry_run"`
	Left   []Leftover `json:"left"`
}

// Leftover is an object that keymill made and nobody needs, or may need.
type Leftover struct {
	Label     string `json:"label"`
	ID        string `json:"id"` // hexadecimal
	Why       string `json:"why"`
	Destroyed bool   `json:"destroyed"`
	Kept      string `json:"kept,omitempty"` // why it wasn't destroyed
}

// WriteTable writes the report for people.
func (r *GCReport) WriteTable(w io.Writer) error {
	t := newTable(w)
	if len(r.Left) == 0 {
		t.row("nothing was left behind in the token")
		return t.flush()
	}
	t.row("LABEL", "ID", "WHY", "DESTROYED")
	for _, l := range r.Left {
		done := yesNo(l.Destroyed)
		if l.Destroyed {
			done = "yes"
		}
		if l.Kept != "" {
			done += ": " + l.Kept
		}
		t.row(l.Label, l.ID, l.Why, done)
	}
	if r.DryRun {
		t.row("")
		t.row("nothing was destroyed: this was a dry run")
	}
	return t.flush()
}

// table aligns columns, and keeps the first error until flush.
type table struct {
	tw  *tabwriter.Writer
	err error
}

func newTable(w io.Writer) *table {
	return &table{tw: tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
}

func (t *table) row(cells ...string) {
	if t.err == nil {
		line := strings.TrimRight(strings.Join(cells, "\t"), "\t ")
		// Several errors in one come with a line each, which would end the row.
		_, t.err = fmt.Fprintln(t.tw, strings.ReplaceAll(line, "\n", "; "))
	}
}

func (t *table) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.tw.Flush()
}

// Add adds the outcome of something else that was tried with the token.
func (r *TestReport) Add(check string, err error) {
	c := Check{Name: check, OK: err == nil}
	if err != nil {
		c.Detail = explain(err.Error())
		r.Verdict += " But: " + check + ": " + c.Detail + "."
	}
	r.Checks = append(r.Checks, c)
}
