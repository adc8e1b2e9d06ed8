package pipeline

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"
)

func TestIdentitySumIgnoresOrder(t *testing.T) {
	a := Identity{{"mac", "02:12:61:13:6c:42"}, {"serial", "1928819"}}
	b := Identity{a[1], a[0]}
	if a.Sum() != b.Sum() {
		t.Error("the order of the attributes changed the identity")
	}
	want := sha256.Sum256([]byte(`{"mac":"02:12:61:13:6c:42","serial":"1928819"}`))
	if a.Sum() != want {
		t.Errorf("JSON is %s", a.JSON())
	}
	if a.Name() != "02:12:61:13:6c:42" || b.Name() != "1928819" {
		t.Error("the first value names the device")
	}
}

// TestCanonicalStrings compares our JSON with an independent implementation of
// RFC 8785 and with what encoding/json reads back.
func TestCanonicalStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.MapOf(rapid.StringN(1, 8, -1), rapid.String()).Draw(t, "values")
		var id Identity
		for name, value := range values {
			id = append(id, Attr{name, value})
		}
		got := id.JSON()
		want, err := jcs.Transform(got)
		if err != nil {
			t.Fatal(err)
		}
		// JCS sorts by UTF-16 units, Go's encoder (which the server uses) by bytes;
		// they differ beyond the BMP only, so compare members there.
		var back map[string]string
		if err := json.Unmarshal(want, &back); err != nil {
			t.Fatal(err)
		}
		if len(back) != len(values) {
			t.Fatalf("%q became %q", got, want)
		}
		for name, value := range values {
			if back[name] != value {
				t.Fatalf("%q: %q became %q", name, value, back[name])
			}
		}
	})
}

func TestAttrsRoundTrip(t *testing.T) {
	attrs := []Attr{{"z", "1"}, {"a", "\"\\\n\x01é💡<>&\u2028"}, {"m", ""}}
	got, err := UnmarshalAttrs(MarshalAttrs(attrs))
	if err != nil || !slices.Equal(got, attrs) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"a":1}`, `{"a"`, "null"} {
		if _, err := UnmarshalAttrs([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// The short cut for plain attributes must see what the decoder sees, or nothing.
func TestPlainAttrs(t *testing.T) {
	plain := 0
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SampledFrom([]string{`{}`, `{"a":"b"}`, `{"a":"b","c":""}`, `{"a":":","":"{}"}`, `{"ä":"ß"}`}).Draw(t, "data")
		at := rapid.IntRange(0, len(data)).Draw(t, "at")
		data = data[:at] + rapid.StringOf(rapid.SampledFrom([]rune("\"\\,:{} a\x00\x1f\uFFFD1"))).Draw(t, "more") + data[at:]
		got, ok := plainAttrs(data)
		if !ok {
			return
		}
		plain++
		want, err := decodeAttrs([]byte(data))
		if err != nil || !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Fatalf("%q: %q, the decoder says %q, %v", data, got, want, err)
		}
	})
	if plain == 0 {
		t.Error("nothing was plain")
	}
	if attrs, ok := plainAttrs(`{"a":"` + "\xff" + `"}`); ok {
		t.Errorf("%q is no UTF-8", attrs)
	}
}

func TestEventCanonical(t *testing.T) {
	event := Event{
		Station: "line-3", Seq: 7, Time: time.Date(2026, 11, 22, 3, 4, 5, 678901999, time.UTC),
		Lot: "L1", Run: 2, Action: ActionRelease, Row: 12, From: Preauthorized, To: Released, Attempt: 1,
		Device: Identity{{"serial", "A<&>"}, {"mac", "00:0a:35:00:00:01"}}, SPKI: "ab", Key: "in-image",
		Algorithm: "ed25519", ReadBack: "match", Reason: "\u2028",
		Auth:   AuthSet{DeviceID: "d", AuthSetID: "a", RequestID: "r", HTTPStatus: 201, Attempts: 1},
		Output: Output{Name: "x.img", Bytes: 9, SHA256: "cd"},
		Facts:  []Attr{{"a", "1"}, {"b", "2"}},
	}
	got := event.Canonical()
	want, err := jcs.Transform(got)
	if err != nil || string(got) != string(want) {
		t.Errorf("not canonical:\n%s\n%s\n%v", got, want, err)
	}
	var members map[string]any
	if err := json.Unmarshal(got, &members); err != nil {
		t.Fatal(err)
	}
	if len(members) != 26 || members["time"] != "2026-11-22T03:04:05.678901Z" {
		t.Errorf("%d members: %s", len(members), got)
	}
	empty := (&Event{}).Canonical()
	if canonical, err := jcs.Transform(empty); err != nil || string(canonical) != string(empty) {
		t.Errorf("an empty event: %s, %v", empty, err)
	}
}
