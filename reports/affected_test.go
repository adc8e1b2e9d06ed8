package reports

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

// fakeFleet is a fakeLedger with units.
type fakeFleet struct {
	*fakeLedger
	units map[string][]*pipeline.Unit
}

func (f fakeFleet) Lots(context.Context) ([]pipeline.Lot, error) {
	var lots []pipeline.Lot
	for _, name := range slices.Sorted(maps.Keys(f.lots)) {
		lots = append(lots, f.lots[name])
	}
	return lots, nil
}

func (f fakeFleet) Units(_ context.Context, lot string) iter.Seq2[*pipeline.Unit, error] {
	return func(yield func(*pipeline.Unit, error) bool) {
		for _, u := range f.units[lot] {
			if !yield(u, nil) {
				return
			}
		}
	}
}

// newFleet has three lots: "a" as fill makes it, with 60 devices; "b" of two runs,
// rows 2 to 4 with firmware 2.6 and tool t1, rows 5 and 6 with firmware 3.0 and tool
// t2; "c" whose run had two tokens.
func newFleet(t *testing.T) (f fakeFleet, between time.Time) {
	l := newLedger(t)
	l.fill("a", 60)
	start := func(lot string, facts ...pipeline.Attr) int64 {
		l.append(pipeline.Event{Lot: lot, Action: pipeline.ActionRun, Facts: facts})
		return l.last(lot)
	}
	l.lots["b"] = pipeline.Lot{Name: "b", Devices: 6, GoldenSHA256: "g2", Station: "line-3", Created: l.clock}
	run := start("b", pipeline.Attr{Name: "token_firmware", Value: "2.6"}, pipeline.Attr{Name: "tool_sha256", Value: "t1"})
	for i := range 3 {
		l.carry("b", run, i)
	}
	between = l.clock.Add(time.Microsecond)
	run = start("b", pipeline.Attr{Name: "token_firmware", Value: "3.0"}, pipeline.Attr{Name: "tool_sha256", Value: "t2"})
	for i := range 2 {
		l.carry("b", run, 3+i)
	}
	for i, r := range l.records["b"] {
		r.Attrs = append(r.Attrs, pipeline.Attr{Name: "market", Value: []string{"DE", "FR"}[i%2]})
	}
	l.lots["c"] = pipeline.Lot{Name: "c", Devices: 1, GoldenSHA256: "g3", Station: "line-3", Created: l.clock}
	l.carry("c", start("c", pipeline.Attr{Name: "token_firmware", Value: "2.6"}, pipeline.Attr{Name: "tokens", Value: "x/1, y/2"}), 0)
	units := map[string][]*pipeline.Unit{"b": {{Row: 3, Number: 1, State: pipeline.UnitScrapped}, {Row: 3, Number: 2, State: pipeline.UnitDelivered, Recipient: "shop"}}}
	return fakeFleet{l, units}, between
}

func TestAffectedDevices(t *testing.T) {
	f, between := newFleet(t)
	for name, c := range map[string]struct {
		asked Asked
		want  string // lot:row
	}{
		"golden":        {Asked{Golden: "g2"}, "b:2 b:3 b:4 b:5 b:6"},
		"other golden":  {Asked{Golden: "g9"}, ""},
		"firmware":      {Asked{Firmware: "2.6"}, "b:2 b:3 b:4 c:2"},
		"new firmware":  {Asked{Firmware: "3.0"}, "b:5 b:6 c:2?"},
		"tool":          {Asked{Tool: "t2"}, "b:5 b:6"},
		"both":          {Asked{Tool: "t2", Firmware: "2.6"}, ""},
		"until":         {Asked{Golden: "g2", To: &between}, "b:2 b:3 b:4"},
		"since":         {Asked{From: &between}, "b:5 b:6 c:2"},
		"no algorithm":  {Asked{Algorithm: "rsa3072"}, ""},
		"and algorithm": {Asked{Algorithm: "ed25519", Tool: "t1"}, "b:2 b:3 b:4"},
	} {
		found, err := FindAffected(t.Context(), f, c.asked)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range found.List {
			mark := ""
			if d.Unsure != "" && c.asked.Firmware == "3.0" {
				mark = "?"
			}
			got = append(got, d.Lot+":"+itoa(d.Row)+mark)
		}
		if all := strings.Join(got, " "); all != c.want {
			t.Errorf("%s: %q, want %q", name, all, c.want)
		}
		if found.Searched.Lots != 3 || found.Searched.Devices != 67 || found.Devices != len(found.List) {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// TestAffectedOfOneLot: every device of lot a is listed, undone ones with their
// state, and those without an image are not of its golden image.
func TestAffectedOfOneLot(t *testing.T) {
	f, _ := newFleet(t)
	found, err := FindAffected(t.Context(), f, Asked{Golden: f.lots["a"].GoldenSHA256})
	if err != nil {
		t.Fatal(err)
	}
	want := map[pipeline.State]int{pipeline.Released: 57, pipeline.Failed: 1, pipeline.Undone: 1}
	if !cmp.Equal(found.States, want) {
		t.Errorf("states %v, want %v", found.States, want)
	}
	if found, err = FindAffected(t.Context(), f, Asked{Golden: "g2"}); err != nil {
		t.Fatal(err)
	}
	d := found.List[1]
	units := []AffectedUnit{{Number: 1, State: pipeline.UnitScrapped}, {Number: 2, State: pipeline.UnitDelivered, Recipient: "shop"}}
	if d.Serial != "SN0000001" || d.Market != "FR" || d.Released == "" || d.SPKISHA256 != f.records["b"][1].Fingerprint() || !cmp.Equal(d.Units, units) {
		t.Errorf("device %+v", d)
	}
	if !cmp.Equal(found.Markets, map[string]int{"DE": 3, "FR": 2}) || found.Units != 2 {
		t.Errorf("%+v", found)
	}
}

// TestRunThatTheLedgerLacks: a device is listed as unsure rather than left out.
func TestRunThatTheLedgerLacks(t *testing.T) {
	f, _ := newFleet(t)
	f.lots["d"] = pipeline.Lot{Name: "d", Devices: 1, Created: f.clock}
	f.carry("d", 77, 0)
	found, err := FindAffected(t.Context(), f, Asked{Tool: "t1"})
	if err != nil || found.Unsure != 1 || found.List[3].Lot != "d" || found.List[3].Unsure == "" {
		t.Errorf("%+v: %v", found, err)
	}
}

// TestSignedListing: what was signed verifies by that key alone, and nothing in the
// folder can be changed.
func TestSignedListing(t *testing.T) {
	f, _ := newFleet(t)
	found, err := FindAffected(t.Context(), f, Asked{Golden: "g2"})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "answer")
	sign := ListSigning{Station: "line-3", Signer: key, Time: "2026-03-14T08:00:00Z", MadeBy: "keymill"}
	if err := WriteAffected(t.Context(), dir, found, sign); err != nil {
		t.Fatal(err)
	}
	keys := []PublicKey{{Key: key.Public()}}
	list, err := VerifyList(t.Context(), dir, keys)
	if err != nil {
		t.Fatal(err)
	}
	var said affectedPredicate
	if err := json.Unmarshal(list.Predicate, &said); err != nil || list.Lines != 5 || said.Station != "line-3" || said.Asked.Golden != "g2" || said.Devices != 5 {
		t.Errorf("%+v, %+v: %v", list, said, err)
	}
	if _, err := VerifyList(t.Context(), dir, []PublicKey{{Key: other.Public()}}); err == nil {
		t.Error("another key verifies it")
	}
	if err := WriteAffected(t.Context(), dir, found, sign); err == nil {
		t.Error("a listing was overwritten")
	}
	for name, text := range map[string][2]string{fileAffected: {"SN0000001", "SN0000009"}, fileStatement: {`"sig":"`, `"sig":"A`}} {
		path := filepath.Join(dir, name)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		after := strings.Replace(string(before), text[0], text[1], 1)
		if after == string(before) {
			t.Fatalf("%s holds no %q", name, text[0])
		}
		writeFile(t, path, after)
		if _, err := VerifyList(t.Context(), dir, keys); err == nil {
			t.Errorf("%s: a change was not found", name)
		}
		writeFile(t, path, string(before))
	}
	writeFile(t, filepath.Join(dir, "more"), "x")
	if _, err := VerifyList(t.Context(), dir, keys); err == nil {
		t.Error("a further file was not found")
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
