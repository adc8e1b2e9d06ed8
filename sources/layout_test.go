package sources

import (
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func attributes(o outcome) string {
	var names []string
	for _, c := range o.summary.Columns {
		names = append(names, c.Attribute)
	}
	return strings.Join(names, " ")
}

func TestGuesses(t *testing.T) {
	for header, attr := range map[string]string{
		"MAC": "mac", "mac address": "mac", "MAC-Adresse": "mac", "Mac_Addr": "mac", "  MAC  Address ": "mac",
		"S/N": "serial", "SN": "serial", "Serial no.": "serial", "serial_number": "serial", "Seriennummer": "serial",
		"Part.No": "part_no", "$price": "price", "WiFi MAC": "wifi_mac", "Größe (mm)": "größe_mm", "2nd": "2nd", "#": "",
	} {
		if got := guess(header); got != attr {
			t.Errorf("%q: %q, want %q", header, got, attr)
		}
	}
}

func TestGuessIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attr := guess(rapid.String().Draw(t, "header"))
		if again := guess(attr); again != attr {
			t.Fatalf("%q is guessed as %q: failures.csv would not map as its manifest did", attr, again)
		}
	})
}

func TestColumnMapping(t *testing.T) {
	const row = "\n00:1b:63:84:45:e6,1,x\n"
	cols := map[string]string{"mac": "Board MAC", "sku": "Part"}
	o := takeCSV(t, "boardmac,S/N,PART"+row, Config{Columns: cols})
	accept(t, o)
	if got := attributes(o); got != "mac serial sku" {
		t.Errorf("attributes %s", got)
	}
	if o.summary.Columns[0].Guessed || !o.summary.Columns[1].Guessed {
		t.Errorf("columns %+v", o.summary.Columns)
	}
	// A file whose headers are the attributes' own names, such as failures.csv.
	o = takeCSV(t, "mac,serial,SKU"+row, Config{Columns: cols})
	accept(t, o)
	if got := attributes(o); got != "mac serial sku" {
		t.Errorf("attributes %s", got)
	}
	// An identity that names a header as it stands.
	o = takeCSV(t, "MAC,SerialNumber,x"+row, Config{Identity: []string{"SerialNumber"}})
	if devs := accept(t, o); devs[0].Identity.String() != "SerialNumber=1" {
		t.Errorf("identity %s", devs[0].Identity)
	}
	// A configured attribute without a header text is guessed, and must be there.
	o = takeCSV(t, "MAC,Seriennr.,x"+row, Config{Columns: map[string]string{"serial": ""}})
	if accept(t, o); attributes(o) != "mac serial x" {
		t.Errorf("attributes %s", attributes(o))
	}
	want(t, takeCSV(t, "MAC,x,y"+row, Config{Columns: map[string]string{"serial": ""}}), 1, "", "is configured")
	// Without a MAC the serial number is the identity.
	o = takeCSV(t, "a,Serial Nr.,b"+row, Config{})
	if devs := accept(t, o); devs[0].Identity.String() != "serial=1" {
		t.Errorf("identity %s", devs[0].Identity)
	}
}

func TestHeaderProblems(t *testing.T) {
	const row = "\n00:1b:63:84:45:e6,1,x\n"
	for name, tc := range map[string]struct {
		header, column, what string
		cfg                  Config
	}{
		"status":               {"MAC,SN,Status", "Status", "inventory skips", Config{}},
		"status configured":    {"MAC,SN,St", "St", "inventory skips", Config{Columns: map[string]string{"Status": "St"}}},
		"two the same":         {"MAC,MAC address,x", "MAC address", "both give the attribute mac", Config{}},
		"configured and guess": {"MAC,Eth,x", "MAC", "", Config{Columns: map[string]string{"MAC": "Eth"}}},
		"dot":                  {"MAC,SN,Part", "Part", "has a . or $", Config{Columns: map[string]string{"part.no": "Part"}}},
		"dollar":               {"MAC,SN,Part", "Part", "has a . or $", Config{Columns: map[string]string{"$part": "Part"}}},
		"header not UTF-8":     {"MAC,SN,Gr\xf6\xdfe", "Gr\xf6\xdfe", "not UTF-8", Config{}},
		"reserved":             {"MAC,SN,Part", "Part", "kept for keymill", Config{Columns: map[string]string{"keymill_part": "Part"}}},
		"absent":               {"MAC,SN,x", "", `no column has the header "Part"`, Config{Columns: map[string]string{"part": "Part"}}},
		"one column twice":     {"MAC,SN,x", "SN", "configured for two attributes", Config{Columns: map[string]string{"a": "SN", "b": "s n"}}},
		"same header twice":    {"MAC,x,X", "X", "two columns have the header", Config{Columns: map[string]string{"a": "x"}}},
		"identity absent":      {"MAC,SN,x", "", "belongs to the identity", Config{Identity: []string{"mac", "cid"}}},
		"identity twice":       {"MAC,SN,x", "", "twice", Config{Identity: []string{"mac", "mac"}}},
		"identity a key":       {"MAC,SN,Public Key", "", "keys change", Config{Identity: []string{"public_key"}}},
		"required absent":      {"MAC,SN,x", "", "is required", Config{Required: []string{"sku"}}},
		"nothing to go by":     {"a,b,c", "", "to know the devices by", Config{}},
	} {
		o := takeCSV(t, tc.header+row, tc.cfg)
		if name == "configured and guess" {
			// Names that differ in case alone are one to people.
			tc.what = "both give the attribute"
			tc.column = "Eth"
		}
		t.Run(name, func(t *testing.T) { want(t, o, 1, tc.column, tc.what) })
	}
}

func TestNoHeader(t *testing.T) {
	p := want(t, takeCSV(t, "00:1b:63:84:45:e6,1\n00:1b:63:84:45:e7,2\n", Config{}), 1, "", "to know the devices by")
	if !strings.Contains(p.Remedy, "looks like a device") {
		t.Errorf("remedy %q", p.Remedy)
	}
}

func TestEmptyValues(t *testing.T) {
	const text = "MAC,SN,sku,note\n00:1b:63:84:45:e6,1,,\n"
	warned(t, takeCSV(t, text, Config{}), 1, "column is empty")
	want(t, takeCSV(t, text, Config{Required: []string{"sku"}}), 2, "sku", "missing")
	want(t, takeCSV(t, text, Config{Columns: map[string]string{"note": "Note"}}), 2, "note", "missing")
	// Columns without header: only their values are missed.
	accept(t, takeCSV(t, "MAC,SN,,\n00:1b:63:84:45:e6,1,,\n", Config{}))
	want(t, takeCSV(t, "MAC,SN,\n00:1b:63:84:45:e6,1,x\n", Config{}), 2, "", "no header")
}

func TestConfigIsNotChanged(t *testing.T) {
	cols := map[string]string{"mac": "Board MAC"}
	before := maps.Clone(cols)
	takeCSV(t, "MAC,SN\n00:1b:63:84:45:e6,1\n", Config{Columns: cols})
	if !maps.Equal(cols, before) {
		t.Errorf("configuration became %v", cols)
	}
}

func TestSharedNamesAndAddresses(t *testing.T) {
	const text = "model,SN,WiFi MAC\nA,1,00:1b:63:84:45:e6\nA,2,00:1b:63:84:45:e6\nB,3,00:1b:63:84:45:e7\n"
	o := takeCSV(t, text, Config{Identity: []string{"model", "serial"}})
	accept(t, o)
	warned(t, o, 3, "identity's first value, is also that of row 2")
	warned(t, o, 3, "occurs also in row 2")
	if len(o.warnings) != 2 {
		t.Errorf("warnings %v", o.warnings)
	}
}
