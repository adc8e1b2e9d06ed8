package sources

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"keymill/pipeline"
)

// failures writes all devices as failures.csv.
func failures(t rapidT, devs []pipeline.Device) []byte {
	var b bytes.Buffer
	w := NewFailuresWriter(&b)
	for _, d := range devs {
		if err := w.Write(&pipeline.Record{Lot: "=lot", Device: d, State: pipeline.Failed, Reason: "=cmd|'/c calc'!A1, said \"no\""}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type rapidT interface{ Fatal(args ...any) }

func TestFailuresAreAManifest(t *testing.T) {
	cfg := Config{Columns: map[string]string{"SerialNumber": "Serial (label)", "mac": "Board MAC"}, Identity: []string{"SerialNumber", "mac"}}
	text := "Serial (label);Part.No;Board MAC;Note\n-17;=A1;00-1B-63-84-45-E6;'+x\n''x;@b;00-1B-63-84-45-E7;\n"
	devs := accept(t, takeCSV(t, text, cfg))
	csv := failures(t, devs)
	for cell := range strings.FieldsFuncSeq(string(csv), func(r rune) bool { return r == ',' || r == '\n' }) {
		if strings.IndexByte(formulaStarts, strings.Trim(cell, `"`)[0]) >= 0 {
			t.Errorf("the cell %q is a formula", cell)
		}
	}
	o := take(t, write(t, "failures.csv", csv), cfg)
	again := accept(t, o)
	if diff := cmp.Diff(devs, again); diff != "" {
		t.Errorf("the round trip changed devices:\n%s", diff)
	}
	if o.summary.Lot != "=lot" {
		t.Errorf("lot %q", o.summary.Lot)
	}
}

// TestFailuresOfAWorkbook: the settings of the workbook that the lot came from
// name its sheet and header row.
func TestFailuresOfAWorkbook(t *testing.T) {
	cfg := Config{HeaderRow: 4, Sheet: "Sheet1", Columns: map[string]string{"mac": "MAC address"}}
	devs := accept(t, take(t, "testdata/cases/title-rows.xlsx", Config{HeaderRow: 4, Columns: cfg.Columns}))
	again := accept(t, take(t, write(t, "failures.csv", failures(t, devs)), cfg))
	if len(again) != len(devs) || again[0].Identity.String() != devs[0].Identity.String() {
		t.Errorf("%v", again)
	}
}

func TestFailuresRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z=+@'-][a-z0-9_ ]{0,6}[a-z0-9]`).Draw(t, "name")
		values := rapid.SliceOfNDistinct(rapid.StringMatching(`[-=+@'a-z0-9,;"]{0,2}[ -~]{0,9}[a-z0-9"'=]`), 1, 5, rapid.ID).Draw(t, "values")
		cfg := Config{Identity: []string{name}}
		var devs []pipeline.Device
		for i, v := range values {
			id := pipeline.Attr{Name: name, Value: v}
			devs = append(devs, pipeline.Device{Row: i + 2, Identity: pipeline.Identity{id}, Attrs: []pipeline.Attr{id, {Name: "note", Value: v}}})
		}
		dir := failures(t, devs)
		l := csvDevices(t, dir, cfg)
		if diff := cmp.Diff(devs, l); diff != "" {
			t.Fatalf("the round trip changed devices:\n%s\n%s", diff, dir)
		}
	})
}

// csvDevices reads a manifest from memory, whatever its values' flaws.
func csvDevices(t *rapid.T, content []byte, cfg Config) []pipeline.Device {
	text, delimiter, err := decodeCSV(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	r := newCSVRows(text, delimiter)
	header, err := r.next()
	if err != nil {
		t.Fatal(err)
	}
	l := newLayout(header, cfg)
	c := newChecker(&l, cfg, nil)
	var devs []pipeline.Device
	for {
		row, err := r.next()
		if err != nil {
			return devs
		}
		for i := range l.cols {
			c.values[i] = restore(row.values[i])
		}
		c.id[0].Value = c.values[l.identity[0]]
		devs = append(devs, c.device(row.number))
	}
}

func TestFailuresWriterRefusesMixedRecords(t *testing.T) {
	w := NewFailuresWriter(&bytes.Buffer{})
	rec := func(names ...string) *pipeline.Record {
		r := &pipeline.Record{}
		for _, n := range names {
			r.Attrs = append(r.Attrs, pipeline.Attr{Name: n})
		}
		return r
	}
	if err := w.Write(rec()); err == nil {
		t.Error("a device without attributes was written")
	}
	if err := w.Write(rec("a", "b")); err != nil {
		t.Error(err)
	}
	if w.Write(rec("a")) == nil || w.Write(rec("b", "a")) == nil {
		t.Error("records with other attributes were written")
	}
}
