package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// browse gets the page as a browser does, without a token.
func browse(t *testing.T, s *Sandbox, query string) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+query, nil))
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("the page answers %d, %v", w.Code, w.Header())
	}
	return w.Body.String()
}

func TestPage(t *testing.T) {
	srv := start(t, Config{MaxDevices: 7, Decommission: time.Hour})
	s := srv.Sandbox
	if text := browse(t, s, ""); !strings.Contains(text, "No devices yet") {
		t.Errorf("the empty page says\n%s", text)
	}
	_, public := newKey(t, "ecdsa-p256")
	_, rsaKey := newKey(t, "rsa-2048")
	for n := range 120 {
		srv.do(t, "POST", "/devices", preauth(fmt.Sprintf(`{"mac":"aa:%03d","evil":"<script>&"}`, n), public, false))
	}
	srv.do(t, "POST", "/devices", preauth(`{"n":7,"o":{"p":[1]}}`, rsaKey, false))
	srv.do(t, "POST", "/devices", preauth(`{"n":7,"o":{"p":[1]}}`, public, true))
	srv.do(t, "DELETE", "/devices/"+srv.device(t, `{"mac":"aa:003","evil":"<script>&"}`).ID, "")
	some := srv.device(t, `{"mac":"aa:042","evil":"<script>&"}`)
	sum := sha256.Sum256(some.AuthSets[0].SPKI)

	plan, err := ParsePlan("after 200 requests answer 503 for 20 s")
	if err != nil {
		t.Fatal(err)
	}
	s.SetFaults(Faults{QuotaPerMin: 30, Fail: 0.05, Latency: time.Second, LatencyP95: 2 * time.Second, Plan: plan})
	for query, want := range map[string][]string{
		"":                                  {"1–50 of 121", "?page=2", "quota 30/min", "5 % fail", "95 % below 2s", "after 200 requests answer 503 for 20 s", "accepts at most <b>7</b>", "2 keys", "RSA 2048", "<i>n</i><span class=\"mono\">7</span>", "{&#34;p&#34;:[1]}"},
		"?page=3":                           {"101–121 of 121", "being deleted", "?page=2"},
		"?page=9":                           {"No devices yet"},
		"?q=AA:042":                         {"1–1 of 1", "aa:042", "<details open>", "&lt;script&gt;&amp;", "ECDSA P-256", hex.EncodeToString(sum[:])},
		"?q=" + some.ID[:13]:                {"1–1 of 1", "aa:042"},
		"?q=" + some.AuthSets[0].ID[:12]:    {"1–1 of 1", "aa:042"},
		"?q=" + hex.EncodeToString(sum[:8]): {"1–50 of 121"},
		"?q=none":                           {"No device matches"},
		"?status=accepted":                  {"No device matches", `name="status" value="accepted"`},
		"?status=preauthorized&page=2":      {"51–100 of 121", "page=3&amp;status=preauthorized", "page=1&amp;status=preauthorized"},
		"?refresh=2":                        {`http-equiv="refresh" content="2"`, "Stop following"},
		"?refresh=-1&page=x":                {"Follow live", "1–50 of 121"},
	} {
		text := browse(t, s, query)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("the page of %q lacks %q", query, w)
			}
		}
		if strings.Contains(text, "<script>") || strings.Contains(text, "PRIVATE") || strings.Contains(text, srv.token) {
			t.Errorf("the page of %q holds what it must not", query)
		}
	}
	if first := strings.Index(browse(t, s, ""), "aa:119"); first < 0 || first > strings.Index(browse(t, s, ""), "aa:118") {
		t.Error("the newest device does not come first")
	}
	r, err := srv.try(t.Context(), "GET", "/ca.crt", "")
	if err != nil || r.body != string(s.CACert()) {
		t.Errorf("/ca.crt: %v", err)
	}
	if r, err = srv.try(t.Context(), "GET", "/other", ""); err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("/other: %v", err)
	}
}

// TestPageLinks: switching the refreshing stays on the page, another status
// begins at the first one.
func TestPageLinks(t *testing.T) {
	query := url.Values{"page": {"3"}, "q": {"a b"}, "status": {"pending"}}
	for _, c := range []struct{ name, value, want string }{
		{"refresh", "2", "?page=3&q=a+b&refresh=2&status=pending"},
		{"status", "", "?q=a+b"},
		{"status", "accepted", "?q=a+b&status=accepted"},
		{"page", "4", "?page=4&q=a+b&status=pending"},
	} {
		if got := with(query, c.name, c.value); got != c.want {
			t.Errorf("with %s=%s: %s, want %s", c.name, c.value, got, c.want)
		}
	}
}
