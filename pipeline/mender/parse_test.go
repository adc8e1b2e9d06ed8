package mender

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"", 0, false}, {"0", 0, true}, {"17", 17 * time.Second, true}, {"-1", 0, false},
		{"1.5", 0, false}, {"soon", 0, false}, {"99999999999999", retryAfterCap, true},
		{"99999999999999999999999", 0, false},
		{"Sun, 22 Nov 2026 12:01:00 GMT", time.Minute, true},
		{"Sun, 22 Nov 2026 11:00:00 GMT", 0, true},
		{"Sun, 22 Nov 2099 11:00:00 GMT", retryAfterCap, true},
	}
	for _, tt := range tests {
		got, ok := retryAfter(http.Header{"Retry-After": {tt.value}}, now)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%q: %s %v, want %s %v", tt.value, got, ok, tt.want, tt.ok)
		}
	}
}

func TestNextPage(t *testing.T) {
	tests := []struct {
		links []string
		want  int
	}{
		{nil, 0},
		{[]string{`<http://h/devices?page=2&per_page=500>; rel="next"`}, 2},
		{[]string{`<http://h/devices?page=1>; rel="first", <http://h/devices?per_page=5&page=7>; rel="next"`}, 7},
		{[]string{`<http://h/d?page=1>; rel="first"`, `</devices?page=3>; title="x"; rel=next`}, 3},
		{[]string{`<http://h/devices?page=1>; rel="prev"`}, 0},
		{[]string{`<http://h/devices?page=x>; rel="next"`, `page=2; rel="next"`, `<`, `>`}, 0},
		{[]string{`<http://h/devices?page=-3>; rel="next"`}, 0},
	}
	for _, tt := range tests {
		if got := nextPage(tt.links); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.links, got, tt.want)
		}
	}
}

func TestTokenExpiry(t *testing.T) {
	tests := []struct {
		token string
		want  int64 // Unix time, 0 for unknown
	}{
		{testToken, 4102444800},
		{"", 0}, {"opaque", 0}, {"a.b.c", 0}, {"a.e30.c", 0},
		{"a.eyJleHAiOi0xfQ.c", 0}, {"a.eyJleHAiOjFlOTl9.c", 0}, {"a.eyJleHAiOiJ4In0.c", 0},
	}
	for _, tt := range tests {
		got := tokenExpiry(tt.token)
		if tt.want == 0 != got.IsZero() || (tt.want != 0 && got.Unix() != tt.want) {
			t.Errorf("%q: %s, want %d", tt.token, got, tt.want)
		}
	}
}

func TestParseDevice(t *testing.T) {
	spki, key := newKey(t)
	body, _ := json.Marshal(map[string]any{
		"id": "d1", "status": "accepted", "decommissioning": true, "created_ts": "2026-11-22T12:00:00.5Z",
		"identity_data": map[string]string{"mac": "02:00", "a": "b"},
		"auth_sets":     []any{map[string]any{"id": "s1", "pubkey": key, "status": "accepted", "ts": "nonsense"}},
	})
	got, err := parseDevice(body)
	if err != nil {
		t.Fatal(err)
	}
	id := pipeline.Identity{{Name: "a", Value: "b"}, {Name: "mac", Value: "02:00"}}
	want := &Device{
		ID: "d1", Identity: id, Sum: id.Sum(), Status: "accepted", Decommissioning: true,
		AuthSets: []AuthSet{{ID: "s1", SPKI: spki, Status: "accepted"}},
		Created:  time.Date(2026, 11, 22, 12, 0, 0, 5e8, time.UTC),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "{}", "[]", "null", `{"id":7}`, `{"id":"d1"`, "<html>"} {
		if _, err := parseDevice([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a device", bad)
		}
	}
}

// A foreign device's numbers must not be taken for our strings.
func TestNumbersAreNoStrings(t *testing.T) {
	dev, err := parseDevice([]byte(`{"id":"d1","identity_data":{"serial":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	if ours := (pipeline.Identity{{Name: "serial", Value: "1"}}); dev.Identity != nil || dev.Sum == ours.Sum() {
		t.Errorf("identity %v counts as ours", dev.Identity)
	}
}

// The server may have encoded a key otherwise than we did.
func TestSameKeyInAnotherEncoding(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	// The same SubjectPublicKeyInfo with a length in BER's long form.
	long := append([]byte{0x30, 0x81, der[1]}, der[2:]...)
	other, _ := newKey(t)
	if !sameKey(der, der) || sameKey(der, other) || sameKey(nil, nil) || sameKey(der, nil) {
		t.Error("keys are confused")
	}
	if _, err := x509.ParsePKIXPublicKey(long); err == nil && !sameKey(der, long) {
		t.Error("the same key in another encoding counts as another")
	}
}

// The body is what encoding/json and encoding/pem make of it.
func TestAppendPreauth(t *testing.T) {
	for size := range 200 {
		spki := bytes.Repeat([]byte{byte(size)}, size)
		id := pipeline.Identity{{Name: "serial", Value: "quote \" and é"}, {Name: "mac", Value: "02:00:00:00:00:01"}}
		var got struct {
			IdentityData map[string]string `json:"identity_data"`
			PubKey       string            `json:"pubkey"`
			Force        bool              `json:"force"`
		}
		body := appendPreauth(nil, id, spki, "", size%2 == 1)
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		want := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		if got.PubKey != want || got.Force != (size%2 == 1) || got.IdentityData["serial"] != id[0].Value || len(got.IdentityData) != 2 {
			t.Fatalf("%d bytes: %s", size, body)
		}
	}
}

func FuzzParseDevice(f *testing.F) {
	f.Add([]byte(`{"id":"d1","identity_data":{"mac":"02"},"status":"preauthorized","decommissioning":false,"auth_sets":null}`))
	f.Add([]byte(`{"id":"d1","identity_data":[1],"auth_sets":[{"id":"s","pubkey":"-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n","ts":5}]}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		dev, err := parseDevice(body)
		if err == nil && dev.ID == "" {
			t.Error("a device without id")
		}
		if err == nil {
			compare(dev, []byte{1})
			Classify(Expected{Identity: dev.Identity, SPKI: []byte{1}}, dev)
		}
		if list, err := parseDevices(append(append([]byte{'['}, body...), ']')); err == nil && len(list) > 0 && list[0].ID == "" {
			t.Error("a listed device without id")
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add(`<http://h/devices?page=2>; rel="next"`, "devices/abc")
	f.Add("120", "")
	f.Add("Sun, 22 Nov 2026 12:01:00 GMT", "../../x")
	f.Fuzz(func(t *testing.T, value, location string) {
		if n := nextPage([]string{value}); n < 0 {
			t.Errorf("page %d", n)
		}
		if d, ok := retryAfter(http.Header{"Retry-After": {value}}, time.Unix(1e9, 0)); d < 0 || d > retryAfterCap || (!ok && d != 0) {
			t.Errorf("%s %v", d, ok)
		}
		if id := locationID(http.Header{"Location": {location}}); strings.Contains(id, "/") {
			t.Errorf("id %q", id)
		}
		tokenExpiry(value)
		if s := clean(value, 20); len(s) > 24 || strings.ContainsAny(s, "\n\r\x1b") {
			t.Errorf("%q", s)
		}
	})
}

func FuzzParseInventory(f *testing.F) {
	f.Add([]byte(`[{"id":"a","attributes":[{"name":"name","scope":"tags","value":"x"},{"name":"group","scope":"system","value":"g"}]}]`))
	f.Add([]byte(`[{"id":"a","attributes":[{"name":"n","scope":"tags","value":[1,"x"]},{"name":"n","scope":"tags"}]}]`))
	f.Add([]byte(`[{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := parseInventory(body)
		if err != nil {
			return
		}
		for id := range found {
			if r := found.compare(InventoryItem{DeviceID: id, Group: "g"}); r.State == InventoryAbsent {
				t.Errorf("%q was found and is absent", id)
			}
		}
	})
}
