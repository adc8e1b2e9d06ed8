package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/metrics"
)

// receiver is a webhook receiver that answers as told and checks signatures.
type receiver struct {
	t      *testing.T
	secret string

	mu      sync.Mutex
	answers []int          // guarded by mu; then 200
	calls   int            // guarded by mu
	taken   []Notification // guarded by mu
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	mac := hmac.New(sha256.New, []byte(r.secret))
	fmt.Fprintf(mac, "%s.%s.%s", req.Header.Get("webhook-id"), req.Header.Get("webhook-timestamp"), body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if got := req.Header.Get("webhook-signature"); got != want {
		r.t.Errorf("signature %q, want %q", got, want)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if len(r.answers) > 0 {
		answer := r.answers[0]
		r.answers = r.answers[1:]
		if answer == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(answer)
		return
	}
	var n Notification
	if err := json.Unmarshal(body, &n); err != nil || n.ID != req.Header.Get("webhook-id") {
		r.t.Errorf("%v: %s", err, body)
	}
	r.taken = append(r.taken, n)
}

func (r *receiver) heard() (calls int, taken []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.taken {
		taken = append(taken, n.ID)
	}
	return r.calls, taken
}

// testOutbox is an outbox whose webhook is r.
func testOutbox(t *testing.T, r *receiver, url string, cfg config.NotifyConfig) (*Outbox, *bytes.Buffer) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "outbox")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	env := []string{"KEYMILL_WEBHOOK_SECRET=" + r.secret, "PATH=" + os.Getenv("PATH"), "KEYMILL_TOKEN=secret"}
	cfg.URL = url
	o, err := Open(cfg, Place{Dir: dir, HookDir: root, Env: env, HookOut: log, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return o, log
}

func note(id string, at time.Time) *Notification {
	return &Notification{Schema: Schema, ID: id, Event: LotClosed, Time: at, Lot: "a"}
}

// TestWebhook: what fails for a while is told again, what is refused waits in
// the outbox, and nothing is lost or signed for anybody else.
func TestWebhook(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	for _, test := range []struct {
		name    string
		answers []int
		calls   int
		taken   string
		left    int
	}{
		{"taken", nil, 2, "one two", 0},
		{"away for a while", []int{503, 500, 429}, 5, "one two", 0},
		{"refused", []int{403, 403}, 2, "", 2},
		{"one refused", []int{422}, 2, "two", 1},
		{"redirected", []int{302, 302}, 2, "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := &receiver{t: t, secret: "shared", answers: test.answers}
			server := httptest.NewServer(r)
			defer server.Close()
			o, log := testOutbox(t, r, server.URL+"/hooks/T0KEN", config.NotifyConfig{Timeout: 20 * time.Second})
			for _, n := range []*Notification{note("two", now), note("one", now.Add(-time.Minute)), note("two", now)} {
				if err := o.Put(n); err != nil {
					t.Fatal(err)
				}
			}
			o.Flush(t.Context(), now)
			calls, taken := r.heard()
			if calls != test.calls || strings.Join(taken, " ") != test.taken || o.Count() != test.left {
				t.Errorf("%d calls, taken %v, %d left\n%s", calls, taken, o.Count(), log)
			}
			if strings.Contains(log.String(), "T0KEN") || strings.Contains(log.String(), "shared") {
				t.Errorf("the log shows secrets: %s", log)
			}
			if test.left == 0 {
				return
			}
			if o.Flush(t.Context(), now.Add(metrics.Rest/2)); o.Count() != test.left {
				t.Error("a receiver that failed gets no rest")
			}
			if o.Flush(t.Context(), now.Add(metrics.Rest)); o.Count() != 0 {
				t.Errorf("%d left after the receiver came back\n%s", o.Count(), log)
			}
		})
	}
}

// TestWebhookBounded: a receiver that hangs costs the outbox's timeout at most,
// and one that is away for good is given up after a week.
func TestWebhookBounded(t *testing.T) {
	release := make(chan struct{})
	hang := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hang.Close()
	defer close(release)
	r := &receiver{t: t, secret: "shared"}
	o, log := testOutbox(t, r, hang.URL, config.NotifyConfig{Timeout: 50 * time.Millisecond})
	now := time.Now()
	if err := o.Put(note("one", now)); err != nil {
		t.Fatal(err)
	}
	if o.Flush(t.Context(), now); o.Count() != 1 {
		t.Errorf("%d left", o.Count())
	}
	if o.Flush(t.Context(), now.Add(outboxLife)); o.Count() != 0 || !strings.Contains(log.String(), "given up") {
		t.Errorf("%d left after a week\n%s", o.Count(), log)
	}
}

func TestWebhookConfiguration(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("webhook-secret", "credential\n", 0o400)
	ca := httptest.NewTLSServer(http.NotFoundHandler())
	ca.Close()
	cert := write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw})), 0o644)
	for _, test := range []struct {
		name   string
		cfg    config.NotifyConfig
		env    []string
		secret string // "": refused
	}{
		{"environment", config.NotifyConfig{URL: "https://a.example/x"}, []string{"KEYMILL_WEBHOOK_SECRET= env "}, "env"},
		{"credential", config.NotifyConfig{URL: "https://a.example/x"}, []string{"KEYMILL_WEBHOOK_SECRET=env", "CREDENTIALS_DIRECTORY=" + dir}, "credential"},
		{"file", config.NotifyConfig{URL: "http://127.0.0.1:1", SecretFile: write("s1", "file\n", 0o600), CAFile: cert}, []string{"CREDENTIALS_DIRECTORY=" + dir}, "file"},
		{"standard", config.NotifyConfig{URL: "http://[::1]:1", SecretFile: write("s2", "whsec_c2VjcmV0\n", 0o600)}, nil, "secret"},
		{"no base64", config.NotifyConfig{URL: "https://a.example", SecretFile: write("s3", "whsec_%%", 0o600)}, nil, ""},
		{"everybody reads", config.NotifyConfig{URL: "https://a.example", SecretFile: write("s4", "file", 0o644)}, nil, ""},
		{"empty", config.NotifyConfig{URL: "https://a.example", SecretFile: write("s5", "\n", 0o600)}, nil, ""},
		{"no file", config.NotifyConfig{URL: "https://a.example", SecretFile: "nothere"}, nil, ""},
		{"no secret", config.NotifyConfig{URL: "https://a.example"}, nil, ""},
		{"plain http", config.NotifyConfig{URL: "http://a.example"}, []string{"KEYMILL_WEBHOOK_SECRET=env"}, ""},
		{"no URL", config.NotifyConfig{URL: "a.example"}, []string{"KEYMILL_WEBHOOK_SECRET=env"}, ""},
		{"no CA", config.NotifyConfig{URL: "https://a.example", CAFile: filepath.Join(dir, "s1")}, []string{"KEYMILL_WEBHOOK_SECRET=env"}, ""},
	} {
		h, err := newWebhook(test.cfg, test.env)
		switch {
		case test.secret == "" && (err == nil || fault.KindOf(err) != fault.Usage):
			t.Errorf("%s: %v", test.name, err)
		case test.secret != "" && (err != nil || string(h.secret) != test.secret):
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestHook: the command gets the notification and nothing secret, its failure
// leaves it pending, and what outlasts the timeout is ended with its children.
func TestHook(t *testing.T) {
	r := &receiver{t: t, secret: "shared"}
	now := time.Now()
	o, log := testOutbox(t, r, "", config.NotifyConfig{Timeout: 30 * time.Second, Command: []string{"sh", "-ec", "test ! -e fail; cat > got; env > env"}})
	dir := filepath.Dir(o.dir)
	n := note("one", now)
	if err := o.Put(n); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fail"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if o.Flush(t.Context(), now); o.Count() != 1 {
		t.Error("a hook that failed has taken its notification")
	}
	if err := os.Remove(filepath.Join(dir, "fail")); err != nil {
		t.Fatal(err)
	}
	if o.Flush(t.Context(), now.Add(metrics.Rest)); o.Count() != 0 {
		t.Errorf("%d left\n%s", o.Count(), log)
	}
	got, err := os.ReadFile(filepath.Join(dir, "got"))
	var back Notification
	if err != nil || json.Unmarshal(got, &back) != nil || back.ID != "one" {
		t.Errorf("%v: the hook got %s", err, got)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil || bytes.Contains(env, []byte("secret")) || bytes.Contains(env, []byte("shared")) || !bytes.Contains(env, []byte("KEYMILL_LOT=a\n")) {
		t.Errorf("%v: the hook's environment is\n%s", err, env)
	}

	// A relative name is one in the folder that keymill runs in; an endless talker is cut off.
	t.Chdir(t.TempDir())
	if err := os.WriteFile("talk.sh", []byte("#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	talk, err := newHook(config.NotifyConfig{Command: []string{"./talk.sh"}}, dir, config.Environ{"PATH=" + os.Getenv("PATH")}, log)
	if err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if err := talk.deliver(t.Context(), n, nil); err != nil || strings.Count(log.String(), "x") != hookSays {
		t.Errorf("%v: the log has %d bytes", err, log.Len())
	}

	slow := &hook{argv: []string{"sh", "-c", "sleep 60 & echo $!; wait"}, env: []string{"PATH=" + os.Getenv("PATH")}, dir: dir, out: log}
	log.Reset()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := slow.deliver(ctx, n, nil); err == nil {
		t.Error("a hook that was killed succeeded")
	}
	child := strings.TrimSpace(log.String())
	if cmdline, err := os.ReadFile("/proc/" + child + "/cmdline"); err == nil && bytes.HasPrefix(cmdline, []byte("sleep")) {
		t.Error("the hook's child goes on")
	}
	if _, err := newHook(config.NotifyConfig{Command: []string{"no-such-program"}}, dir, nil, io.Discard); fault.KindOf(err) != fault.Usage {
		t.Errorf("a command that is not there: %v", err)
	}
}

// TestOutboxUnreadable: a notification that a bad disk spoilt keeps no other back.
func TestOutboxUnreadable(t *testing.T) {
	r := &receiver{t: t, secret: "shared"}
	server := httptest.NewServer(r)
	defer server.Close()
	o, log := testOutbox(t, r, server.URL, config.NotifyConfig{Timeout: 20 * time.Second})
	now := time.Now()
	spoilt := filepath.Join(o.dir, "a.webhook")
	if err := errors.Join(os.WriteFile(spoilt, []byte{0, 0}, 0o600), o.Put(note("one", now))); err != nil {
		t.Fatal(err)
	}
	o.Flush(t.Context(), now)
	if _, taken := r.heard(); !slices.Equal(taken, []string{"one"}) || o.Count() != 0 || !files.Exists(spoilt+".unreadable") {
		t.Errorf("taken %v, %d left\n%s", taken, o.Count(), log)
	}
}

// TestOutboxRests: the longer a receiver is away, the less often a night waits for it.
func TestOutboxRests(t *testing.T) {
	r := &receiver{t: t, secret: "shared", answers: slices.Repeat([]int{403}, 7)}
	server := httptest.NewServer(r)
	defer server.Close()
	o, _ := testOutbox(t, r, server.URL, config.NotifyConfig{Timeout: 20 * time.Second})
	now := time.Now()
	if err := o.Put(note("one", now)); err != nil {
		t.Fatal(err)
	}
	for minute := range 60 {
		o.Flush(t.Context(), now.Add(time.Duration(minute)*time.Minute))
	}
	if calls, _ := r.heard(); calls != 7 || o.Count() != 1 { // after 0, 1, 3, 7, 15, 31 and 47 minutes
		t.Errorf("%d calls in an hour, %d left", calls, o.Count())
	}
}
