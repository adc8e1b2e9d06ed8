package sources

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"keymill/pipeline"
)

func TestUnique(t *testing.T) {
	const text = "MAC,SN,asset,WiFi MAC\n00:1b:63:84:45:01,A,1,00:1b:63:84:45:11\n00:1b:63:84:45:02,B,,00-1B-63-84-45-12\n00:1b:63:84:45:03,A,1,001b63844512\n00:1b:63:84:45:04,C,,001b63844513\n"
	// By default the serial number, and only that.
	o := takeCSV(t, text, Config{})
	if p := want(t, o, 4, "SN", "same as in row 2"); p.Value != "A" || p.Cell != "B4" || len(o.problems) != 1 {
		t.Errorf("%+v, %v", p, o.problems)
	}
	if fmt.Sprint(o.summary.Unique) != "[serial]" || !o.summary.Columns[1].Unique {
		t.Errorf("%+v", o.summary)
	}
	// What is listed, normalised; empty values are not compared.
	o = takeCSV(t, text, Config{Unique: []string{"asset", "wifi_mac"}})
	want(t, o, 4, "asset", "same as in row 2")
	want(t, o, 4, "WiFi MAC", "same as in row 3")
	if len(o.problems) != 2 {
		t.Errorf("%v", o.problems)
	}
	o = takeCSV(t, text, Config{Unique: []string{}})
	accept(t, o)
	want(t, takeCSV(t, text, Config{Unique: []string{"imei"}}), 1, "", "must be unique")
	// A serial number that is the identity is compared once.
	o = takeCSV(t, "SN\nA\nA\n", Config{})
	if want(t, o, 3, "SN", "identity is the same as in row 2"); len(o.problems) != 1 {
		t.Errorf("%v", o.problems)
	}
}

func TestHeld(t *testing.T) {
	var text strings.Builder
	text.WriteString("MAC,SN,note\n")
	for i := range 1203 {
		fmt.Fprintf(&text, "00:1b:63:84:%02x:%02x,SN%d,x\n", i>>8, i&255, i)
	}
	var asked []int
	cfg := Config{Held: func(_ context.Context, values []pipeline.Attr) (map[pipeline.Attr]string, error) {
		asked = append(asked, len(values))
		return map[pipeline.Attr]string{{Name: "serial", Value: "SN7"}: "lot A, row 9", {Name: "serial", Value: "SN1202"}: "lot B, row 2", {Name: "note", Value: "x"}: "lot C"}, nil
	}}
	o := takeCSV(t, text.String(), cfg)
	want(t, o, 9, "SN", "lot A, row 9")
	want(t, o, 1204, "SN", "lot B, row 2")
	if fmt.Sprint(asked) != "[500 500 203]" || len(o.problems) != 2 {
		t.Errorf("asked %v, %v", asked, o.problems)
	}
	gone := errors.New("ledger gone")
	cfg.Held = func(context.Context, []pipeline.Attr) (map[pipeline.Attr]string, error) { return nil, gone }
	if o := takeCSV(t, text.String(), cfg); !errors.Is(o.err, gone) || Refused(o.err) {
		t.Errorf("got %v", o.err)
	}
}

func TestMACColumns(t *testing.T) {
	for header, is := range map[string]bool{
		"MAC": true, "MAC0": true, "mac1": true, "MACs": true, "wifi_macaddr": true, "btmac": true, "eth0mac": true, "MAC address 2": true, "wlan0 MAC": true, "WiFiMac": true,
		"BD_ADDR": true, "hwaddr": true, "MAC-Adresse (LAN)": true, "mac_eth": true, "eth1 mac addr": true, "Ethernet address": true, "wifi5gmac": true, "mac id": true,
		"machine": false, "macro": false, "imac": false, "stomach": false, "mac_count": false, "MAC prefix": false, "tarmac": false, "pharmac": false, "SN": false, "address": false, "MAC vendor": false,
	} {
		if got := isMACName(safeName(header)); got != is {
			t.Errorf("%q: %v", header, got)
		}
	}
	rows := func(header, first, second string) string {
		return fmt.Sprintf("mac,%s\n00:1b:63:84:45:01,%s\n00:1b:63:84:45:02,%s\n00:1b:63:84:45:03,\n", header, first, second)
	}
	for name, tc := range map[string]struct {
		text string
		cfg  Config
		last string // of row 3, "!" and a problem
	}{
		"by name":              {rows("eth1mac", "001B63844511", "00-1B-63-84-45-12"), Config{}, "00:1b:63:84:45:12"},
		"by values":            {rows("bluetooth", "00:1B:63:84:45:11", "00-1B-63-84-45-12"), Config{}, "00:1b:63:84:45:12"},
		"by maker":             {rows("bluetooth", "001B63844511", "001B63844512"), Config{}, "00:1b:63:84:45:12"},
		"other digits":         {rows("chip", "4C1B63844511", "4C1B63844512"), Config{}, "4C1B63844512"},
		"one of many":          {rows("note", "00:1B:63:84:45:11", "none") + "00:1b:63:84:45:04,see above\n", Config{}, "none"},
		"checked by values":    {rows("bluetooth", "00:1B:63:84:45:11", "none") + "00:1b:63:84:45:04,00:1B:63:84:45:14\n", Config{}, "!not a MAC"},
		"configured otherwise": {rows("bluetooth", "00:1B:63:84:45:11", "00-1B-63-84-45-12"), Config{Columns: map[string]string{"label": "bluetooth"}}, "!missing"},
		"serial":               {rows("SN", "00:1B:63:84:45:11", "00-1B-63-84-45-12") + "00:1b:63:84:45:04,1\n", Config{}, "!missing"},
	} {
		t.Run(name, func(t *testing.T) {
			o := takeCSV(t, tc.text, tc.cfg)
			if what, ok := strings.CutPrefix(tc.last, "!"); ok {
				if !Refused(o.err) || !strings.Contains(fmt.Sprint(o.problems), what) || what == "missing" && strings.Contains(fmt.Sprint(o.problems), "MAC address") {
					t.Errorf("%v", o.problems)
				}
				return
			}
			devs := accept(t, o)
			if got := devs[1].Attrs[1].Value; got != tc.last {
				t.Errorf("read %q, want %q", got, tc.last)
			}
			if byValues := strings.HasPrefix(name, "by values") || name == "by maker"; byValues != (o.summary.Columns[1].MAC == "values") {
				t.Errorf("%+v", o.summary.Columns)
			} else if byValues {
				warned(t, o, 1, "MAC addresses")
			}
		})
	}
}

func TestDamageBySpreadsheets(t *testing.T) {
	for v, expect := range map[string][2]bool{ // may be, is surely scientific notation
		"1.002e+09": {true, true}, "1,23457E11": {true, true}, "8.96529E+19": {true, true}, "1.23457E+11": {true, true}, "1E+09": {true, true}, "-1.5e-07": {true, true}, "1.12e11": {true, false},
		"1,2E9": {true, true}, "123.4E+9": {true, true}, "5E10": {true, false}, "1e9": {true, false}, "1.5E3": {true, false},
		"0503E000": {}, "12E5": {}, "E5": {}, "5E": {}, "1.E5": {}, "1.2.3E+5": {}, "1e5x": {}, "": {}, "+": {}, "--1E5": {}, "1E+1234": {}, "1,234,567E+5": {},
	} {
		if may, sure := scientific(v); may != expect[0] || sure != expect[1] {
			t.Errorf("%q: %v, %v", v, may, sure)
		}
	}
	for v, is := range map[string]bool{"#N/A": true, "#REF!": true, "#NAME?": true, "#DIV/0!": true, "#NV": true, "#BEZUG!": true, "#¡VALOR!": true, "#¿NOMBRE?": true, "Err:502": true, "#####": true, "#SPILL!": true,
		"#1": false, "#A": false, "#": false, "#ok!": false, "Err:5": false, "N/A": false, "#12!": false} {
		if formulaError(v) != is {
			t.Errorf("%q: %v", v, !is)
		}
	}
	for v, inner := range map[string]string{`="00123"`: "00123", `="a""b"`: `a"b`, `=""`: "", `="a"&"b"`: "!", `="`: "!", `="a`: "!", `=A1`: "!", `00123`: "!"} {
		got, ok := unguard(v)
		if ok != (inner != "!") || ok && got != inner {
			t.Errorf("%s: %q, %v", v, got, ok)
		}
	}
}

// TestDoubtfulNumbers: 5E10 among digits was rounded, among hexadecimal numbers
// it is one.
func TestDoubtfulNumbers(t *testing.T) {
	rows := func(header string, values ...string) string {
		text := "mac," + header + "\n"
		for i, v := range values {
			text += fmt.Sprintf("00:1b:63:00:00:%02x,%s\n", i+1, v)
		}
		return text
	}
	accept(t, takeCSV(t, rows("SN", "5E10", "5E11", "5F00"), Config{}))
	accept(t, takeCSV(t, rows("SN", "5E10", "5E11"), Config{}))
	o := takeCSV(t, rows("SN", "1000", "5E10", "5E11"), Config{})
	want(t, o, 3, "SN", "scientific")
	want(t, o, 4, "SN", "scientific")
	o = takeCSV(t, rows("batch", "1000", "5E10", "5E11"), Config{})
	accept(t, o)
	warned(t, o, 3, "scientific")
	o = takeCSV(t, rows("batch", "1000", "1.002e+09", "1.002e+09"), Config{})
	accept(t, o)
	warned(t, o, 3, "(so in 1 row more)")
	want(t, takeCSV(t, rows("batch", "1000", "1.002e+09"), Config{Unique: []string{"batch"}}), 3, "batch", "scientific")
	want(t, takeCSV(t, rows("batch", "1000", "1.002e+09"), Config{Required: []string{"batch"}}), 3, "batch", "scientific")
	// More than are listed one by one are counted.
	text := "mac,SN\n00:1b:63:00:ff:ff,1\n"
	for i := range maxDoubtful + 7 {
		text += fmt.Sprintf("00:1b:63:00:%02x:%02x,%s\n", i>>8, i&255, fmt.Sprintf("%dE%d", i%9+1, i/9))
	}
	o = takeCSV(t, text, Config{})
	if !strings.Contains(fmt.Sprint(o.problems), "7 more values of the column") {
		t.Errorf("%d problems", len(o.problems))
	}
}
