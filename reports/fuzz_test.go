package reports

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"

	"keymill/pipeline"
)

// FuzzCanonical compares the check with an implementation of RFC 8785: what it
// accepts must be what that writes. (It need not accept all of that: floats,
// arrays and literals do not occur in events.)
func FuzzCanonical(f *testing.F) {
	event := pipeline.Event{Action: "staged", Row: 3, Device: pipeline.Identity{{Name: `q"`, Value: "ü\t\x01測"}, {Name: "mac", Value: "02"}}}
	f.Add(event.Canonical())
	for _, s := range []string{`{}`, `{"a":1,"b":{"c":"d"}}`, `{"b":1,"a":2}`, `{"a":1,"a":1}`, `{"a": 1}`, `{"a":01}`, `{"a":-0}`,
		`{"a":"\u0041"}`, `{"a":"\/"}`, `{"a":"\u001F"}`, `{"a":"\u001f"}`, `{"a":"\u0008"}`, `{"a":1e3}`, `"\ud83d\ude00"`, `{"ä":1,"z":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) || !isCanonical(data) {
			return
		}
		want, err := jcs.Transform(data)
		if err != nil {
			t.Skip() // it refuses lone surrogates and the like
		}
		if !bytes.Equal(want, data) && sameOrder(data) {
			t.Errorf("accepted %q, canonical is %q", data, want)
		}
	})
}

func isCanonical(data []byte) bool {
	_, err := parseEvent(data)
	return err == nil
}

// sameOrder reports whether names sort the same by bytes and by UTF-16 units.
func sameOrder(data []byte) bool {
	return !strings.ContainsFunc(string(data), func(r rune) bool { return r >= 0xe000 })
}

func TestCanonicalAcceptsWhatWeWrite(t *testing.T) {
	e := pipeline.Event{Action: "x", Row: 1, Reason: "\x00\x1f\b\t\n\f\r\"\\/<>&\u2028é",
		Device: pipeline.Identity{{Name: `a"`, Value: ""}, {Name: "aZ", Value: "1"}}}
	if _, err := parseEvent(e.Canonical()); err != nil {
		t.Errorf("%v: %s", err, e.Canonical())
	}
	for _, s := range []string{`{"b":1,"a":2}`, `{"a":1,"a":1}`, `{"a": 1}`, `{"a":01}`, `{"a":-0}`, `{"a":"\u0041"}`,
		`{"a":"\/"}`, `{"a":"\u001F"}`, `{"a":"\u0008"}`, `{"a":1e3}`, `{"a":1.5}`, `{"a":[1]}`, `{"a":null}`, `{"a":1} `, ``} {
		if isCanonical([]byte(s)) {
			t.Errorf("accepted %s", s)
		}
	}
}

// FuzzParsers feeds every parser of foreign bytes; none may panic.
func FuzzParsers(f *testing.F) {
	head, err := LogHead{Station: "s", Origin: Origin("s"), Size: 1, Root: strings.Repeat("A", 43) + "="}.sign(stationKey("a"))
	if err != nil {
		f.Fatal(err)
	}
	vkey, err := VerifierKey("s", stationKey("a").Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head)
	f.Add([]byte(vkey))
	f.Add([]byte("0 3 " + strings.Repeat("A", 43) + "="))
	f.Add([]byte(`{"payloadType":"x","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	f.Add([]byte(`{"action":"staged","row":2,"seq":1,"time":"2026-03-14T08:00:00.000000Z"}`))
	trust := trusted(stationKey("a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := openCheckpoint(data, nil, nil); err == nil && (c.size < 0 || c.origin == "") {
			t.Errorf("a checkpoint %+v", c)
		}
		if _, err := openCheckpoint(data, trust.Keys, nil); err == nil && !bytes.Equal(data, head) {
			t.Error("a checkpoint that the key has not signed was accepted")
		}
		if _, _, err := openStatement(t.Context(), data, trust.Keys); err == nil {
			t.Error("a statement that the key has not signed was accepted")
		}
		_, _ = ParsePublicKey(data)
		_, _ = ParseWitness(string(data))
		if n, err := parseNode(data); err == nil {
			var b strings.Builder
			if err := writeNodes(&b, []node{n}); err != nil || b.String() != string(data)+"\n" {
				t.Errorf("%q reads as %q", data, b.String())
			}
		}
		if e, err := parseEvent(data); err == nil {
			var s Stats
			s.add(e)
			_ = (&replay{v: &verifier{st: &Statement{}}, traces: newTraces()}).event(e)
		}
		if d, err := VerifyDevice(data, trust, nil); err != nil || d.OK() {
			t.Errorf("a proof %v", err)
		}
	})
}
