package mender

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http/httptest"
	"strings"
	"testing"

	"keymill/pipeline/mender/sandbox"
)

func signed(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// What the sandbox tells is understood, whichever server it plays; what isn't
// signed, or is signed with another secret, is not taken.
func TestWebhook(t *testing.T) { overVersions(t, testWebhook) }

func testWebhook(t *testing.T, v sandbox.Version) {
	events := make(chan *WebhookEvent, 10)
	receiver := httptest.NewServer(NewWebhook([]byte("s3cret"), func(e *WebhookEvent) { events <- e }))
	defer receiver.Close()
	_, cfg := trial(t, sandbox.Config{Version: v, Webhook: sandbox.Webhook{URL: receiver.URL, Secret: []byte("s3cret")}})
	p := preauth(t, 1)
	set, err := open(t, cfg).Preauthorize(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	e := <-events
	if e.Type != "device-status-changed" || e.DeviceID != set.DeviceID || e.Status != StatusPreauthorized || e.Time.IsZero() {
		t.Errorf("%+v", e)
	}
	if v == sandbox.Main && (len(e.AuthSets) != 1 || !sameKey(e.AuthSets[0].SPKI, p.SPKI)) {
		t.Errorf("%+v", e.AuthSets)
	}
	const body = `{"type":"device-status-changed","data":{"id":"x","status":"accepted"}}`
	for name, tt := range map[string]struct {
		method, body, signature string
		want                    int
	}{
		"right":          {"POST", body, signed("s3cret", body), 204},
		"no signature":   {"POST", body, "", 401},
		"another secret": {"POST", body, signed("other", body), 401},
		"another body":   {"POST", body + " ", signed("s3cret", body), 401},
		"not hex":        {"POST", body, "zz", 401},
		"not an event":   {"POST", `{}`, signed("s3cret", `{}`), 400},
		"not JSON":       {"POST", `x`, signed("s3cret", `x`), 400},
		"GET":            {"GET", "", "", 405},
		"too long":       {"POST", strings.Repeat(" ", maxWebhook+1), "", 400},
	} {
		r := httptest.NewRequest(tt.method, "/", strings.NewReader(tt.body))
		r.Header.Set("X-Men-Signature", tt.signature)
		w := httptest.NewRecorder()
		NewWebhook([]byte("s3cret"), func(e *WebhookEvent) { events <- e }).ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	if _, err := ParseWebhook(nil, signed("", body), []byte(body)); err == nil {
		t.Error("an empty secret signs everything")
	}
}

func FuzzParseWebhook(f *testing.F) {
	f.Add([]byte(`{"type":"device-status-changed","data":{"id":"x","status":"accepted","auth_sets":[{"pubkey":"x"}]},"time":"2026-08-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := ParseWebhook([]byte("k"), signed("k", string(body)), body)
		if err == nil && e.DeviceID == "" {
			t.Error("an event of no device")
		}
	})
}
