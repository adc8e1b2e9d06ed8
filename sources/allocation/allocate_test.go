package allocation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"keymill/pipeline"
	"keymill/sources"
)

// register is a Register in memory that keeps the contract strictly.
type register struct {
	mu     sync.Mutex
	grants []Grant
	before func() // called by Grant first
}

func (r *register) Grants(_ context.Context, space string, first, last uint64) ([]Grant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first > last {
		return nil, fmt.Errorf("asked for %d to %d", first, last)
	}
	var found []Grant
	for _, g := range r.grants {
		if g.Space == space && g.First <= last && first <= g.Last {
			found = append(found, g)
		}
	}
	return found, nil
}

func (r *register) Grant(_ context.Context, grants []Grant, reuse bool) error {
	if r.before != nil {
		r.before()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range grants {
		if g.First > g.Last || g.Lot == "" || g.Space == "" {
			return fmt.Errorf("bad grant %+v", g)
		}
		for _, old := range r.grants {
			if old.Space == g.Space && g.First <= old.Last && old.First <= g.Last && (!old.Undone || !reuse) {
				return ErrOverlap
			}
		}
	}
	r.grants = append(r.grants, grants...)
	return nil
}

func (r *register) undo(lot string) {
	for i := range r.grants {
		r.grants[i].Undone = r.grants[i].Undone || r.grants[i].Lot == lot
	}
}

func macRange(t testing.TB, s string) MACRange {
	t.Helper()
	r, err := ParseMACRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func pattern(t testing.TB, s string) *SerialPattern {
	t.Helper()
	p, err := ParseSerialPattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// devices opens, checks and reads a manifest that must be accepted.
func devices(t testing.TB, name string, content []byte, cfg sources.Config) []pipeline.Device {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := sources.Open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Check(t.Context(), func(p sources.Problem) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
	var all []pipeline.Device
	for d, err := range m.Devices(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// manifest returns the allocation's CSV, after a check accepted it.
func manifest(t testing.TB, a *Allocation) string {
	t.Helper()
	var b bytes.Buffer
	if err := a.WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	devices(t, "m.csv", b.Bytes(), sources.Config{Expect: a.Count})
	return b.String()
}

var monday = time.Date(2026, 11, 16, 9, 0, 0, 0, time.UTC) // ISO week 47

func TestAllocate(t *testing.T) {
	reg := &register{}
	req := Request{Lot: "A", Count: 2, MACs: []string{"mac", "wifi_mac"}, From: []MACRange{macRange(t, "00:1b:63:10:00:00/28")},
		Serial: pattern(t, "KM{yy}{ww}-{seq:5}{luhn}"), SerialFirst: 1, Attrs: []pipeline.Attr{{Name: "part_no", Value: "KM-100"}}, Time: monday}
	a, err := Allocate(t.Context(), reg, req)
	if err != nil {
		t.Fatal(err)
	}
	want := "mac,wifi_mac,serial,part_no\n" +
		"00:1b:63:10:00:00,00:1b:63:10:00:01,KM2647-000013,KM-100\n" +
		"00:1b:63:10:00:02,00:1b:63:10:00:03,KM2647-000021,KM-100\n"
	if got := manifest(t, a); got != want {
		t.Errorf("manifest\n%s", got)
	}
	var book bytes.Buffer
	if err := a.WriteXLSX(&book); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(devices(t, "m.csv", []byte(want), sources.Config{}), devices(t, "m.xlsx", book.Bytes(), sources.Config{})); diff != "" {
		t.Errorf("the workbook differs: %s", diff)
	}
	if a.Left != 99_997 || a.Low() {
		t.Errorf("left %d", a.Left)
	}
	req.Lot = "B"
	a, err = Allocate(t.Context(), reg, req)
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest(t, a); !strings.Contains(got, "00:1b:63:10:00:04,00:1b:63:10:00:05,KM2647-00003") {
		t.Errorf("second lot\n%s", got)
	}
	// The next week's serial numbers begin anew, the addresses do not.
	req.Lot, req.Time = "C", monday.AddDate(0, 0, 7)
	a, err = Allocate(t.Context(), reg, req)
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest(t, a); !strings.Contains(got, "00:1b:63:10:00:08,00:1b:63:10:00:09,KM2648-00001") {
		t.Errorf("next week\n%s", got)
	}
}

func TestExhaustion(t *testing.T) {
	reg := &register{}
	req := Request{Lot: "A", Count: 5, MACs: []string{"mac"}, From: []MACRange{macRange(t, "00:1b:63:00:00:00..00:1b:63:00:00:07")}, Time: monday}
	a, err := Allocate(t.Context(), reg, req)
	if err != nil || a.Left != 3 || !a.Low() {
		t.Fatalf("%+v, %v", a, err)
	}
	_, err = Allocate(t.Context(), reg, req)
	ex, ok := errors.AsType[*ExhaustedError](err)
	if !ok || ex.Left != 3 || ex.Want != 5 || pipeline.Hint(err) == "" {
		t.Fatalf("got %v", err)
	}
	if len(reg.grants) != 1 {
		t.Errorf("grants %v", reg.grants)
	}
	// A second block is used after the first is full.
	req.From = append(req.From, macRange(t, "00:1b:64:00:00:00/24"))
	a, err = Allocate(t.Context(), reg, req)
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest(t, a); !strings.Contains(got, "00:1b:63:00:00:07\n00:1b:64:00:00:00\n") {
		t.Errorf("manifest\n%s", got)
	}
	_, err = Allocate(t.Context(), reg, Request{Lot: "S", Count: 10, Serial: pattern(t, "S{seq:1}"), SerialFirst: 1, Time: monday})
	if ex, ok := errors.AsType[*ExhaustedError](err); !ok || ex.Left != 9 {
		t.Errorf("got %v", err)
	}
}

func TestUndoneLots(t *testing.T) {
	reg := &register{}
	req := Request{Lot: "A", Count: 8, MACs: []string{"mac"}, From: []MACRange{macRange(t, "00:1b:63:00:00:00..00:1b:63:00:00:0f")}, Time: monday}
	for _, lot := range []string{"A", "B"} {
		req.Lot = lot
		if _, err := Allocate(t.Context(), reg, req); err != nil {
			t.Fatal(err)
		}
	}
	reg.undo("A")
	req.Lot = "C"
	if _, err := Allocate(t.Context(), reg, req); err == nil {
		t.Fatal("the addresses of an undone lot were given away unasked")
	}
	req.Reuse = true
	a, err := Allocate(t.Context(), reg, req)
	if err != nil || a.Grants[0].First != req.From[0].First {
		t.Fatalf("%+v, %v", a, err)
	}
	req.Lot = "D"
	if _, err := Allocate(t.Context(), reg, req); err == nil {
		t.Fatal("addresses of an undone lot were given twice")
	}
}

func TestIdentifiersInUseElsewhereArePassedOver(t *testing.T) {
	// 1,100 devices came from manifests made by hand: all odd addresses, in
	// whatever attribute and notation, and some serial numbers.
	held := []string{"S00002", "s00004", "S00005X", "S5", "KM-100", ""}
	inUse := map[string]bool{"S00002": true, "S00004": true}
	for n := uint64(1); n < 2200; n += 2 {
		mac := sources.MACFromUint64(0x001b63000000 + n).String()
		inUse[mac] = true
		if n%4 == 1 {
			mac = strings.ToUpper(strings.ReplaceAll(mac, ":", "-"))
		}
		held = append(held, mac, mac) // the same one in two attributes counts once
	}
	values := func(end error) func(context.Context) iter.Seq2[string, error] {
		return func(context.Context) iter.Seq2[string, error] {
			return func(yield func(string, error) bool) {
				for _, v := range held {
					if !yield(v, nil) {
						return
					}
				}
				if end != nil {
					yield("", end)
				}
			}
		}
	}
	req := Request{Lot: "A", Count: 1101, MACs: []string{"mac"}, From: []MACRange{macRange(t, "00:1b:63")}, Serial: pattern(t, "S{seq:5}"), Time: monday,
		Identity: []string{"mac"}, Held: values(nil)}
	reg := &register{}
	a, err := Allocate(t.Context(), reg, req)
	if err != nil {
		t.Fatal(err)
	}
	var last []string
	if err := a.each(func(values []string) error {
		last = slices.Clone(values)
		for _, v := range values {
			if inUse[v] {
				t.Errorf("%s is in use", v)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if last[0] != "00:1b:63:00:08:98" || last[1] != "S01102" || len(a.macs) != 1101 || a.PassedOver != 1102 {
		t.Errorf("last %s, %d spans, %d passed over", last, len(a.macs), a.PassedOver)
	}
	// What was granted here is no news, however many devices hold it.
	for v := range inUse {
		held = append(held, v)
	}
	if err := a.each(func(values []string) error { held = append(held, values...); return nil }); err != nil {
		t.Fatal(err)
	}
	req.Lot = "B"
	if b, err := Allocate(t.Context(), reg, req); err != nil || b.PassedOver != 1102 {
		t.Errorf("%+v, %v", b, err)
	}
	gone := errors.New("ledger gone")
	req.Held = values(gone)
	if _, err := Allocate(t.Context(), reg, req); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	req.Identity = []string{"mac", "cid"}
	if _, err := Allocate(t.Context(), reg, req); err == nil || !strings.Contains(err.Error(), "cid") {
		t.Errorf("got %v", err)
	}
}

// TestHeldAddressInsideADevicesOwn: a device's addresses are consecutive, so one
// that is in use moves all of them.
func TestHeldAddressInsideADevicesOwn(t *testing.T) {
	req := Request{Lot: "A", Count: 2, MACs: []string{"mac", "wifi_mac"}, From: []MACRange{macRange(t, "00:1b:63")}, Serial: pattern(t, "KM-{seq:5}{luhn}"), Time: monday,
		Held: func(context.Context) iter.Seq2[string, error] {
			return func(yield func(string, error) bool) {
				_ = yield("00:1b:63:00:00:01", nil) && yield("KM-000000", nil) && yield("00:1b:64:00:00:01", nil)
			}
		}}
	a, err := Allocate(t.Context(), &register{}, req)
	if err != nil || a.PassedOver != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	if got := manifest(t, a); !strings.Contains(got, "\n00:1b:63:00:00:02,00:1b:63:00:00:03,KM-000018\n") {
		t.Errorf("manifest\n%s", got)
	}
}

func TestOtherStationIsFaster(t *testing.T) {
	reg := &register{}
	req := Request{Lot: "A", Count: 3, MACs: []string{"mac"}, From: []MACRange{macRange(t, "00:1b:63")}, Time: monday}
	reg.before = func() {
		reg.before = nil
		if _, err := Allocate(t.Context(), reg, Request{Lot: "B", Count: 2, MACs: []string{"mac"}, From: req.From, Time: monday}); err != nil {
			t.Error(err)
		}
	}
	a, err := Allocate(t.Context(), reg, req)
	if err != nil || a.Grants[0].First != req.From[0].First+2 {
		t.Fatalf("%+v, %v", a, err)
	}
	reg.before = func() {
		reg.grants = append(reg.grants, Grant{Lot: "B", Space: MACSpace, First: req.From[0].First, Last: uint64(len(reg.grants)) + req.From[0].First + 10})
	}
	if _, err := Allocate(t.Context(), reg, req); !errors.Is(err, ErrOverlap) || pipeline.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestNothingOverlapsEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reg := &register{}
		pools := []MACRange{{0x001b63000000, 0x001b6300003f}, {0x001b63000020, 0x001b6300007f}, {0x001b64000000, 0x001b6400001f}}
		patterns := []string{"SN{seq:3}", "SN0{seq:2}", "SN{seq:2}{luhn}", "SN-{seq:2}", "SN{dd}{seq:1}"}
		inUse := map[string]string{} // identifier to lot
		for n := range rapid.IntRange(1, 12).Draw(t, "lots") {
			lot := fmt.Sprint("L", n)
			p, err := ParseSerialPattern(rapid.SampledFrom(patterns).Draw(t, "pattern"))
			if err != nil {
				t.Fatal(err)
			}
			req := Request{Lot: lot, Count: rapid.IntRange(1, 9).Draw(t, "count"), MACs: []string{"mac", "wifi_mac", "bt_mac"}[:rapid.IntRange(1, 3).Draw(t, "macs")],
				From: pools[rapid.IntRange(0, 1).Draw(t, "pool"):][:1], Serial: p, Reuse: rapid.Bool().Draw(t, "reuse"), Time: monday}
			a, err := Allocate(context.Background(), reg, req)
			if _, full := errors.AsType[*ExhaustedError](err); full {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := a.WriteCSV(&b); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()[strings.IndexByte(b.String(), '\n')+1:]) {
				for id := range strings.SplitSeq(strings.TrimSpace(line), ",") {
					if other, dup := inUse[id]; dup {
						t.Fatalf("%s was given to %s and %s", id, other, lot)
					}
					inUse[id] = lot
				}
			}
			if rapid.Bool().Draw(t, "undo") {
				reg.undo(lot)
				for id, owner := range inUse {
					if owner == lot {
						delete(inUse, id)
					}
				}
			}
		}
	})
}

func TestMACRanges(t *testing.T) {
	for s, want := range map[string]string{
		"00:1b:63":                               "00:1b:63:00:00:00..00:1b:63:ff:ff:ff",
		"001B63":                                 "00:1b:63:00:00:00..00:1b:63:ff:ff:ff",
		"00-1B-63/24":                            "00:1b:63:00:00:00..00:1b:63:ff:ff:ff",
		"00:1b:63:10:00:00/28":                   "00:1b:63:10:00:00..00:1b:63:1f:ff:ff",
		"70:b3:d5:12:30:00/36":                   "70:b3:d5:12:30:00..70:b3:d5:12:3f:ff",
		"001b63000005..001b63ff0":                "",
		"00:1b:63:00:00:05..00-1B-63-00-00-09":   "00:1b:63:00:00:05..00:1b:63:00:00:09",
		"00:1b:63:00:00:09..00:1b:63:00:00:05":   "",
		"00:1b:63:ff:ff:00..00:1b:64:00:00:05":   "",
		"00:1b:63:10:00:01/28":                   "",
		"00:1b:63/20":                            "",
		"":                                       "",
		"/24":                                    "",
		"00:1b:63:00:00:05 - 00:1b:63:00:00:0:9": "",
	} {
		r, err := ParseMACRange(s)
		if want == "" {
			if err == nil || pipeline.Hint(err) == "" {
				t.Errorf("%q: %v, %v", s, r, err)
			}
		} else if err != nil || r.String() != want {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
}

func TestOUIsAreChecked(t *testing.T) {
	for s, what := range map[string]string{
		"01:1b:63": "multicast", "02:1b:63": "locally administered", "00:50:56": "VMware", "ac:de:48": "examples", "00:00:00": "Xerox",
	} {
		req := Request{Lot: "A", Count: 1, MACs: []string{"mac"}, From: []MACRange{macRange(t, s)}, Time: monday}
		if _, err := Allocate(t.Context(), &register{}, req); err == nil || !strings.Contains(err.Error(), what) || pipeline.Hint(err) == "" {
			t.Errorf("%s: %v", s, err)
		}
	}
	req := Request{Lot: "A", Count: 1, MACs: []string{"mac"}, From: []MACRange{macRange(t, "02:1b:63")}, Local: true, Time: monday}
	if _, err := Allocate(t.Context(), &register{}, req); err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	oui := macRange(t, "00:1b:63")
	for what, req := range map[string]Request{
		"no devices":         {MACs: []string{"mac"}, From: []MACRange{oui}},
		"neither":            {Count: 1},
		"no range":           {Count: 1, MACs: []string{"mac"}},
		"overlap":            {Count: 1, MACs: []string{"mac"}, From: []MACRange{oui, macRange(t, "00:1b:63:10:00:00/28")}},
		"allocated twice":    {Count: 1, MACs: []string{"serial"}, From: []MACRange{oui}, Serial: pattern(t, "{seq:3}")},
		"called status":      {Count: 1, MACs: []string{"mac"}, From: []MACRange{oui}, Attrs: []pipeline.Attr{{Name: "status"}}},
		"is an SSH key":      {Count: 1, MACs: []string{"mac"}, From: []MACRange{oui}, Attrs: []pipeline.Attr{{Name: "token", Value: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"}}},
		"spaces at its ends": {Count: 1, MACs: []string{"mac"}, From: []MACRange{oui}, Attrs: []pipeline.Attr{{Name: "part_no", Value: "KM "}}},
		"not a MAC":          {Count: 1, MACs: []string{"mac"}, From: []MACRange{oui}, Attrs: []pipeline.Attr{{Name: "gateway_mac", Value: "KM"}}},
		"digit after":        {Count: 1, Serial: pattern(t, "{seq:3}{yy}")},
		"more than 18 digit": {Count: 1, Serial: pattern(t, "12345678901{seq:8}")},
	} {
		req.Lot, req.Time = "A", monday
		if _, err := Propose(t.Context(), &register{}, req); err == nil || !strings.Contains(err.Error(), what) || pipeline.Hint(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSerialPatterns(t *testing.T) {
	newYear := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) // ISO week 53 of 2026
	for text, want := range map[string]string{
		"{seq:4}":                        "0007",
		"SN-{seq:3}-X":                   "SN-007-X",
		"{lot}/{yyyy}-{mm}-{dd}/{seq:2}": "L9/2027-01-01/07",
		"{yy}{ww}A{seq:3}":               "2653A007",
		"7992739871{seq:0}":              "",
		"{seq:1}{seq:1}":                 "",
		"SN":                             "",
		"{seq:3":                         "",
		"seq:3}":                         "",
		"{SEQ:3}":                        "",
		"{seq:13}":                       "",
		"{luhn}{seq:3}":                  "",
		" {seq:3}":                       "",
	} {
		p, err := ParseSerialPattern(text)
		if want == "" {
			if err == nil || pipeline.Hint(err) == "" {
				t.Errorf("%q is taken for a pattern (%v)", text, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		b, err := p.at("L9", newYear)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.serial(b.base + 7*b.unit); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestLuhn(t *testing.T) {
	// The standard's own example, and the usual test card number.
	for number, want := range map[string]rune{"7992739871": '3', "411111111111111": '1', "SN-0": '0'} {
		if got := luhn(number); got != want {
			t.Errorf("%s: %c, want %c", number, got, want)
		}
	}
}
