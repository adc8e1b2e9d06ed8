package sources

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keymill/pipeline"
)

// write puts a manifest into a file of the test's own.
func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// outcome is all that a manifest gives.
type outcome struct {
	problems, warnings []Problem
	summary            Summary
	devices            []pipeline.Device
	err                error // of Open or Check
}

// take opens, checks and, if accepted, reads a manifest.
func take(t testing.TB, path string, cfg Config) outcome {
	t.Helper()
	var o outcome
	m, err := Open(path, cfg)
	if err != nil {
		o.err = err
		return o
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	o.summary, o.err = m.Check(t.Context(), func(p Problem) {
		if p.Warning {
			o.warnings = append(o.warnings, p)
		} else {
			o.problems = append(o.problems, p)
		}
	})
	if len(o.problems) != o.summary.Problems || len(o.warnings) != o.summary.Warnings {
		t.Errorf("reported %d problems and %d warnings, summary has %d and %d", len(o.problems), len(o.warnings), o.summary.Problems, o.summary.Warnings)
	}
	if o.err != nil {
		return o
	}
	for d, err := range m.Devices(t.Context()) {
		if err != nil {
			t.Fatalf("devices of an accepted manifest: %v", err)
		}
		o.devices = append(o.devices, d)
	}
	if len(o.devices) != o.summary.Rows {
		t.Errorf("%d devices of %d rows", len(o.devices), o.summary.Rows)
	}
	return o
}

func takeCSV(t testing.TB, text string, cfg Config) outcome {
	t.Helper()
	return take(t, write(t, "m.csv", []byte(text)), cfg)
}

// accept fails the test unless the manifest was accepted.
func accept(t testing.TB, o outcome) []pipeline.Device {
	t.Helper()
	if o.err != nil {
		t.Fatalf("refused: %v (%s) %v", o.err, pipeline.Hint(o.err), o.problems)
	}
	return o.devices
}

// want fails the test unless exactly one problem says so, at the place.
func want(t testing.TB, o outcome, row int, column, what string) Problem {
	t.Helper()
	if !Refused(o.err) {
		t.Fatalf("not refused: %v, warnings %v", o.err, o.warnings)
	}
	if pipeline.Hint(o.err) == "" {
		t.Errorf("no hint with %v", o.err)
	}
	var found []Problem
	for _, p := range o.problems {
		if strings.Contains(p.What, what) && p.Row == row && p.Column == column {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d problems in row %d, column %q with %q, want 1 of:\n%v", len(found), row, column, what, o.problems)
	}
	if found[0].Remedy == "" {
		t.Errorf("no remedy: %v", found[0])
	}
	return found[0]
}

func warned(t testing.TB, o outcome, row int, what string) {
	t.Helper()
	for _, p := range o.warnings {
		if p.Row == row && strings.Contains(p.What, what) && p.Remedy != "" {
			return
		}
	}
	t.Errorf("no warning in row %d with %q: %v", row, what, o.warnings)
}

func TestDevices(t *testing.T) {
	o := takeCSV(t, "MAC Address,S/N,Part.No\n00-1B-63-84-45-E6,001,A\n001b.6384.45e7,002,\n", Config{})
	devs := accept(t, o)
	if len(devs) != 2 || devs[0].Row != 2 || devs[1].Row != 3 {
		t.Fatalf("devices %+v", devs)
	}
	if got := devs[0].Identity.String(); got != "mac=00:1b:63:84:45:e6" {
		t.Errorf("identity %s", got)
	}
	if got := pipeline.Identity(devs[1].Attrs).String(); got != "mac=00:1b:63:84:45:e7, serial=002, part_no=" {
		t.Errorf("attributes %s", got)
	}
	if o.summary.SHA256 == "" || len(o.summary.Columns) != 3 || !o.summary.Columns[0].Identity || !o.summary.Columns[0].Guessed {
		t.Errorf("summary %+v", o.summary)
	}
}

func TestCompositeIdentityKeepsItsOrder(t *testing.T) {
	devs := accept(t, takeCSV(t, "MAC,SN\n00:1b:63:84:45:e6,7\n", Config{Identity: []string{"serial", "mac"}}))
	if got := devs[0].Identity.String(); got != "serial=7, mac=00:1b:63:84:45:e6" {
		t.Errorf("identity %s", got)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	o := takeCSV(t, strings.Join([]string{
		"MAC,Serial no.,Status,note",
		"00:1b:63:84:45:e6,1,ok,",
		"00:1b:63:84:45:zz,2,ok,",
		"00:1b:63:84:45:e8,,ok,",
		"00:1B:63:84:45:E6,4,ok,",
		"00:1b:63:84:45:e9, 5,ok,",
		"",
		"00:00:00:00:00:00,6,ok,",
		"ff:ff:ff:ff:ff:ff,7,ok,",
		"01:1b:63:84:45:e9,8,ok,",
		"02:1b:63:84:45:e9,9,ok,",
		"00:1b:63:84:45:ea,10,ok",
	}, "\n"), Config{Expect: 11})
	want(t, o, 1, "Status", "status")
	want(t, o, 3, "MAC", "not a MAC")
	want(t, o, 4, "Serial no.", "missing")
	want(t, o, 5, "MAC", "same as in row 2")
	if p := want(t, o, 6, "Serial no.", "spaces at its ends"); p.Cell != "B6" || p.Value != " 5" {
		t.Errorf("problem %+v", p)
	}
	warned(t, o, 7, "empty")
	want(t, o, 8, "MAC", "all zeros")
	want(t, o, 9, "MAC", "broadcast")
	want(t, o, 10, "MAC", "multicast")
	warned(t, o, 11, "locally administered")
	warned(t, o, 12, "ends before this column")
	want(t, o, 0, "", "control total is 11")
	if o.summary.Rows != 10 || len(o.problems) != 9 {
		t.Errorf("%d rows, %d problems: %v", o.summary.Rows, len(o.problems), o.problems)
	}
}

func TestControlTotal(t *testing.T) {
	const text = "MAC\n00:1b:63:84:45:e6\n00:1b:63:84:45:e7\n"
	accept(t, takeCSV(t, text, Config{Expect: 2}))
	want(t, takeCSV(t, text, Config{Expect: 3}), 0, "", "2 devices")
	want(t, takeCSV(t, "MAC\n", Config{}), 0, "", "no devices")
}

func TestOpenErrors(t *testing.T) {
	for name, tc := range map[string]struct{ content, hint string }{
		"empty":      {"", "template"},
		"blank":      {"\n\n,,\n", "template"},
		"xls":        {"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "without a password"},
		"gzip":       {"\x1f\x8b\x08\x00", "save it"},
		"not a zip":  {"PK\x03\x04 and nothing", "save it again"},
		"bad header": {"MAC,S\"N\n", "quotes"},
	} {
		_, err := Open(write(t, "m.csv", []byte(tc.content)), Config{})
		if !Refused(err) || !strings.Contains(pipeline.Hint(err), tc.hint) {
			t.Errorf("%s: %v, hint %q", name, err, pipeline.Hint(err))
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none.csv"), t.TempDir()} {
		if _, err := Open(path, Config{}); err == nil || Refused(err) || pipeline.Hint(err) == "" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestChangedSinceCheck(t *testing.T) {
	text := []byte("MAC,SN\n00:1b:63:84:45:e6,1\n")
	for name, change := range map[string]func(path string) error{
		"rewritten": func(p string) error {
			return os.WriteFile(p, bytes.Replace(text, []byte("e6"), []byte("e7"), 1), 0o600)
		},
		"replaced": func(p string) error {
			if err := os.WriteFile(p+"2", append(text, '\n'), 0o600); err != nil {
				return err
			}
			return os.Rename(p+"2", p)
		},
	} {
		path := write(t, "m.csv", text)
		m, err := Open(path, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Check(t.Context(), func(p Problem) { t.Log(p) }); err != nil {
			t.Fatal(err)
		}
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		for d, err := range m.Devices(t.Context()) {
			if err == nil {
				t.Errorf("%s: got %v", name, d)
			} else if !strings.Contains(err.Error(), "changed") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestDevicesWantAnAcceptedManifest(t *testing.T) {
	m, err := Open(write(t, "m.csv", []byte("MAC\nnone\n")), Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = m.Check(t.Context(), func(Problem) {})
	for _, err := range m.Devices(t.Context()) {
		if err == nil {
			t.Error("a device of a refused manifest")
		}
	}
}
