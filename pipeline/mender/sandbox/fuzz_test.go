package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzPreauthorize sends bodies to a preauthorization: whatever is stored must
// be shown again as valid JSON, and its key must be accepted a second time.
func FuzzPreauthorize(f *testing.F) {
	_, ed := newKey(f, "ed25519")
	_, ec := newKey(f, "ecdsa-p256")
	f.Add([]byte(preauth(`{"mac":"aa"}`, ed, false)))
	f.Add([]byte(preauth(`{"n":1e400}`, ec, true)))
	f.Add([]byte(preauth(`{"n":[1,{"x":null}],"<":"\u2028\ud800"}`, ec, true)))
	f.Add([]byte(`{"identity_data":{"a":"b"},"identity_data":{"c":1.50},"PUBKEY":"x"}`))
	s := fuzzed(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		s.store = newStore(1, 0, Main)
		w := send(s, "POST", devauth+"/devices", string(body))
		switch w.Code {
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			return
		case http.StatusCreated:
		default:
			t.Fatalf("answered %d: %s", w.Code, w.Body)
		}
		w = send(s, "GET", devauth+"/"+w.Header().Get("Location"), "")
		var d shown
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil {
			t.Fatalf("shown as %s: %v", w.Body, err)
		}
		identity, err := json.Marshal(d.Identity)
		if err != nil {
			t.Fatal(err)
		}
		again := preauth(string(identity), []byte(d.AuthSets[0].PubKey), false)
		if w := send(s, "POST", devauth+"/devices", again); w.Code != http.StatusConflict {
			t.Fatalf("what was shown is another identity: %d for %s", w.Code, again)
		}
		if d, ok := s.Find(identity); !ok || len(d.AuthSets) != 1 {
			t.Fatalf("the device is %v, %s", ok, d)
		}
	})
}

// FuzzAuthRequest sends bodies and signature headers as a device would: nothing
// may be accepted that was not preauthorized and signed.
func FuzzAuthRequest(f *testing.F) {
	private, public := newKey(f, "ed25519")
	body := `{"id_data":"{\"mac\":\"aa\"}","pubkey":` + quote(public) + `,"tenant_token":""}`
	f.Add([]byte(body), sign(f, private, []byte(body))+"x")
	f.Add([]byte(body), "")
	f.Add([]byte(body), base64.StdEncoding.EncodeToString(make([]byte, 64)))
	s := fuzzed(f)
	f.Fuzz(func(t *testing.T, body []byte, signature string) {
		s.store = newStore(1, 0, Main)
		_, _, err := s.store.preauthorize(`{"mac":"aa"}`, setKey{spki: string(ed25519Prefix) + strings.Repeat("k", 32)}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		w := send(s, "POST", authRequests, string(body), header("X-MEN-Signature", signature))
		if w.Code != http.StatusBadRequest && w.Code != http.StatusUnauthorized && w.Code != http.StatusRequestEntityTooLarge {
			t.Fatalf("answered %d: %s", w.Code, w.Body)
		}
	})
}

// FuzzJournal replays files that something else wrote.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"n":64,"status":"preauthorized","identity":{"mac":"aa"},"sets":[{"n":1,"spki":"AAAA","at":1,"status":"pending"}]}`))
	f.Add([]byte(`{"n":1,"gone":true}`))
	f.Add([]byte(`{"n":70,"gone":true,"status":"pending","identity":{},"sets":[{"n":1,"spki":"","status":"noauth"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		st := newStore(1, 0, Main)
		if st.apply(line) != nil {
			return
		}
		st.recount()
		var list []json.RawMessage
		page, _ := st.page(filter{}, 0, 10)
		if err := json.Unmarshal(page, &list); err != nil {
			t.Fatalf("listed as %s: %v", page, err)
		}
		n := 0
		for range st.devices {
			n++
		}
		if len(list) != n {
			t.Fatalf("%d listed, %d there", len(list), n)
		}
	})
}

// fuzzed makes one sandbox for all inputs: the random numbers in its keys would
// make every input look interesting.
func fuzzed(f *testing.F) *Sandbox {
	s, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func quote(text []byte) string {
	q, err := json.Marshal(string(text))
	if err != nil {
		return `""`
	}
	return string(q)
}

// send calls the handler without a network.
func send(s *Sandbox, method, path, body string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+s.Token())
	r.Header.Set("Content-Type", "application/json")
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}
