package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReceiver: only what was signed with the secret, and lately, is written down.
func TestReceiver(t *testing.T) {
	const body = `{"id":"closed-a"}`
	sign := func(secret, id, stamp, body string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(id + "." + stamp + "." + body))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	now := strconv.FormatInt(time.Now().Unix(), 10)
	old := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	for _, test := range []struct {
		name, stamp, signature string
		want                   int
	}{
		{"signed", now, sign("secret", "closed-a", now, body), http.StatusOK},
		{"not signed", now, "", http.StatusForbidden},
		{"by another", now, sign("guess", "closed-a", now, body), http.StatusForbidden},
		{"another body", now, sign("secret", "closed-a", now, body+" "), http.StatusForbidden},
		{"another id", now, sign("secret", "closed-b", now, body), http.StatusForbidden},
		{"too old", old, sign("secret", "closed-a", old, body), http.StatusForbidden},
		{"no time", "", sign("secret", "closed-a", "", body), http.StatusForbidden},
	} {
		var out strings.Builder
		answer := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		req.Header.Set("webhook-id", "closed-a")
		req.Header.Set("webhook-timestamp", test.stamp)
		req.Header.Set("webhook-signature", test.signature)
		(&receiver{secret: []byte("secret"), out: &out}).ServeHTTP(answer, req)
		if answer.Code != test.want || (out.String() == body+"\n") != (test.want == http.StatusOK) {
			t.Errorf("%s: %d, wrote %q", test.name, answer.Code, out.String())
		}
	}
}
