package mender

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"keymill/pipeline"
)

func preauth(t testing.TB, n int) pipeline.Preauth {
	spki, _ := newKey(t)
	return pipeline.Preauth{Identity: identity(n), SPKI: spki}
}

// wantOutage checks that err is the server's outage and says what to do.
func wantOutage(t *testing.T, err error, hint string) {
	t.Helper()
	o, ok := errors.AsType[*pipeline.Outage](err)
	if !ok || o.Part != pipeline.PartServer {
		t.Fatalf("error %v, want an outage of the server", err)
	}
	if !strings.Contains(o.Hint, hint) {
		t.Errorf("hint %q of %q lacks %q", o.Hint, err, hint)
	}
}

// A server that is down pauses the lot: hardly any requests, everybody waits,
// and when it is back the lot goes on within seconds.
func TestLotOutlastsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = 20 * time.Millisecond
		began := time.Now()
		down := func(now time.Time) bool { d := now.Sub(began); return d > 5*time.Second && d < 10*time.Minute }
		var tried atomic.Int64
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.after || !down(time.Now()) {
				return nil, nil
			}
			tried.Add(1)
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		}
		c := f.client(t)
		took := lot(t, c, 100, 5000)
		if took < 10*time.Minute || took > 10*time.Minute+15*time.Second {
			t.Errorf("the lot took %s", took)
		}
		if n := tried.Load(); n > 250 {
			t.Errorf("%d requests while the server was down", n)
		}
		if len(f.devices) != 5000 {
			t.Errorf("%d devices on the server", len(f.devices))
		}
	})
}

// After GiveUp all callers get an outage, those in the queue included.
func TestGiveUp(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	notFound := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "mender.test", IsNotFound: true}}
	noDNS := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "server misbehaving", Name: "mender.test", IsTemporary: true}}
	unreachable := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}
	page := func(status int) func() (*http.Response, error) {
		return func() (*http.Response, error) {
			return reply(status, "<html><title>Bad Gateway</title></html>"), nil
		}
	}
	tests := []struct {
		name   string
		answer func() (*http.Response, error)
		hint   string
	}{
		{"refused", func() (*http.Response, error) { return nil, refused }, "Nothing listens"},
		{"dns", func() (*http.Response, error) { return nil, notFound }, "host name is unknown"},
		{"dns down", func() (*http.Response, error) { return nil, noDNS }, "DNS doesn't answer"},
		{"unreachable", func() (*http.Response, error) { return nil, unreachable }, "Nothing answers"},
		{"502 page", page(http.StatusBadGateway), "gateway answers"},
		{"503", page(http.StatusServiceUnavailable), "can't serve now"},
		{"500", func() (*http.Response, error) { return failure(http.StatusInternalServerError, "internal error"), nil }, "server's own log"},
		{"captive portal", page(http.StatusOK), "proxy"},
		{"429 for ever", func() (*http.Response, error) { return failure(http.StatusTooManyRequests, "too many requests"), nil }, "quota"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.fault = func(*fakeRequest) (*http.Response, error) { return tt.answer() }
				c := f.client(t, func(cfg *Config) { cfg.GiveUp = 10 * time.Minute })
				began := time.Now()
				_, err := c.Probe(t.Context()) // a lot's first question
				wantOutage(t, err, tt.hint)
				if strings.Contains(pipeline.Hint(err), "answers others") {
					t.Errorf("hint %q", pipeline.Hint(err))
				}
				if took := time.Since(began); took < 10*time.Minute || took > 11*time.Minute {
					t.Errorf("the probe gave up after %s", took)
				}
				c, began = f.client(t, func(cfg *Config) { cfg.GiveUp = 10 * time.Minute }), time.Now()
				f.requests = nil
				var wg sync.WaitGroup
				for i := range 50 {
					wg.Go(func() {
						_, err := c.Preauthorize(t.Context(), preauth(t, i))
						wantOutage(t, err, tt.hint)
					})
				}
				wg.Wait()
				if took := time.Since(began); took < 10*time.Minute || took > 12*time.Minute {
					t.Errorf("gave up after %s", took)
				}
				if len(f.requests) > 300 {
					t.Errorf("%d requests to a dead server", len(f.requests))
				}
			})
		})
	}
}

// A server that hangs is noticed by the attempts' timeouts.
func TestHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Hour
		_, err := f.client(t).Preauthorize(t.Context(), preauth(t, 1))
		wantOutage(t, err, "doesn't answer in time")
	})
}

// Answers that asking again can't change stop the lot at once.
func TestRefusalsStopAtOnce(t *testing.T) {
	tests := []struct {
		status   int
		body     string
		requests int
		hint     string
	}{
		{http.StatusUnauthorized, `{"error":"unauthorized"}`, 2, "token has expired"},
		{http.StatusForbidden, `{"error":"forbidden"}`, 1, "permission"},
		{http.StatusMethodNotAllowed, "405 not allowed", 1, "server.url"},
		{http.StatusMovedPermanently, "", 1, "server.url"},
		{http.StatusProxyAuthRequired, "", 1, "HTTPS_PROXY"},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.fault = func(*fakeRequest) (*http.Response, error) {
				resp := reply(tt.status, tt.body)
				resp.Header.Set("Location", "https://elsewhere.test/")
				return resp, nil
			}
			_, err := f.client(t).Preauthorize(t.Context(), preauth(t, 1))
			wantOutage(t, err, tt.hint)
			if len(f.requests) != tt.requests {
				t.Errorf("%d: %d requests, want %d", tt.status, len(f.requests), tt.requests)
			}
		})
	}
}

// A lot outlasts a server that is down for a minute, whatever answers in its
// place, at its start, in its middle and at its end, and no device suffers.
func TestLotOutlastsARestart(t *testing.T) {
	faults := map[string]func() (*http.Response, error){
		"refused": func() (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		},
		"DNS": func() (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}
		},
		"500":         func() (*http.Response, error) { return failure(http.StatusInternalServerError, "internal error"), nil },
		"502":         func() (*http.Response, error) { return reply(http.StatusBadGateway, htmlPage), nil },
		"503":         func() (*http.Response, error) { return failure(http.StatusServiceUnavailable, "redis is gone"), nil },
		"gateway 404": func() (*http.Response, error) { return reply(http.StatusNotFound, "404 page not found"), nil },
	}
	for name, fault := range faults {
		for _, workers := range []int{1, 2, 50} {
			for _, at := range []int{1, 100, 203} { // the request with which it begins
				t.Run(fmt.Sprintf("%s/%d workers/from request %d", name, workers, at), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := newFake(t)
						f.latency = 10 * time.Millisecond
						var began atomic.Int64
						f.fault = func(r *fakeRequest) (*http.Response, error) {
							if r.n >= at {
								began.CompareAndSwap(0, time.Now().UnixNano())
							}
							if b := began.Load(); r.after || b == 0 || time.Since(time.Unix(0, b)) > time.Minute {
								return nil, nil
							}
							return fault()
						}
						c := f.client(t)
						if _, err := c.Probe(t.Context()); err != nil {
							t.Fatal(err)
						}
						if took := lot(t, c, workers, 200); took > 90*time.Second {
							t.Errorf("the lot took %s", took)
						}
					})
				})
			}
		}
	}
}

// An address where a gateway knows no Mender server is told soon, but not before
// a restart would be over.
func TestNoMenderThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fault = func(*fakeRequest) (*http.Response, error) {
			return reply(http.StatusNotFound, "404 page not found"), nil
		}
		began := time.Now()
		_, err := f.client(t).Probe(t.Context())
		wantOutage(t, err, "server.url")
		if took := time.Since(began); took < strangerPatience || took > 2*strangerPatience {
			t.Errorf("took %s", took)
		}
		began = time.Now()
		_, err = f.client(t).ProbeNow(t.Context())
		wantOutage(t, err, "server.url")
		if took := time.Since(began); took > time.Second {
			t.Errorf("at the keyboard it took %s", took)
		}
	})
}

// A gateway that answers 404 while its backend restarts is waited for, once a
// Mender server has been seen there.
func TestGatewayDuringRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.n > 1 && r.n < 12 && !r.after {
				return reply(http.StatusNotFound, "404 page not found"), nil
			}
			return nil, nil
		}
		c := f.client(t)
		for i := range 3 {
			if _, err := c.Preauthorize(t.Context(), preauth(t, i)); err != nil {
				t.Error(err)
			}
		}
	})
}

// A token that expires in the middle of a lot is read again, by one worker for all.
func TestTokenIsRenewed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Millisecond
		f.tokens = map[string]bool{"first": true}
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.n == 100 && !r.after {
				f.mu.Lock()
				f.tokens = map[string]bool{"second": true}
				f.mu.Unlock()
				write("second")
			}
			return nil, nil
		}
		c := f.client(t, func(cfg *Config) { cfg.Token = TokenFile(file) })
		lot(t, c, 50, 500)
		if extra := len(f.requests) - 500; extra < 1 || extra > 2*DefaultInFlight {
			t.Errorf("%d extra requests", extra)
		}
	})
}

func TestLogin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("correct horse \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.tokens = map[string]bool{}
		f.users["mill@example.com"] = "correct horse "
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.n == 1 && !r.after {
				return failure(http.StatusInternalServerError, "slow start"), nil
			}
			return nil, nil
		}
		c := f.client(t, func(cfg *Config) { cfg.Token = Login("mill@example.com", file) })
		lot(t, c, 10, 20)
		f.mu.Lock()
		f.tokens = map[string]bool{} // all expire
		f.mu.Unlock()
		if _, err := c.Probe(t.Context()); err != nil {
			t.Error(err)
		}
		f.users["mill@example.com"] = "changed"
		f.tokens = map[string]bool{}
		_, err := c.Preauthorize(t.Context(), preauth(t, 1))
		wantOutage(t, err, "password")
	})
}

// Retry-After stops all workers, not only the one that was told.
func TestRetryAfterStopsEverybody(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.latency = 10 * time.Millisecond
			var mu sync.Mutex
			var told time.Time
			early := 0
			f.fault = func(r *fakeRequest) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				switch now := time.Now(); {
				case r.after:
				case told.IsZero() && r.n > 100:
					told = now
					resp := failure(status, "later")
					resp.Header.Set("Retry-After", "30")
					return resp, nil
				case !told.IsZero() && now.Sub(told) < 30*time.Second && now.Sub(told) > 0:
					early++
				}
				return nil, nil
			}
			lot(t, f.client(t), 100, 400)
			if early > DefaultInFlight {
				t.Errorf("%d: %d requests in the pause, more than were in flight", status, early)
			}
		})
	}
}

// A server that names no time, or none that is true, isn't asked in a busy loop.
func TestUselessRetryAfter(t *testing.T) {
	for _, value := range []string{"0", "1", "", "soon"} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			began := time.Now()
			f.fault = func(r *fakeRequest) (*http.Response, error) {
				if r.after || time.Since(began) > 5*time.Minute {
					return nil, nil
				}
				resp := failure(http.StatusTooManyRequests, "too many requests")
				resp.Header.Set("Retry-After", value)
				return resp, nil
			}
			took := lot(t, f.client(t), 50, 50)
			if extra := len(f.requests) - 50; extra > 60 || took > 7*time.Minute {
				t.Errorf("Retry-After %q: %d wasted requests, done after %s", value, extra, took)
			}
		})
	}
}

// Two failures with an idle time between them are no outage.
func TestIdleTimeIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		bad := true
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.after || !bad {
				return nil, nil
			}
			bad = false
			return nil, errReset
		}
		c := f.client(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		for range 3 {
			bad = true
			_, _ = c.Preauthorize(ctx, preauth(t, 1))
			time.Sleep(time.Hour)
			ctx = t.Context()
		}
		bad = true
		if _, err := c.Preauthorize(t.Context(), preauth(t, 2)); err != nil {
			t.Error(err)
		}
	})
}

func TestInFlightNeverExceedsItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = 10 * time.Millisecond
		lot(t, f.client(t, func(cfg *Config) { cfg.InFlight = 7 }), 300, 3000)
		if f.peak != 7 {
			t.Errorf("%d in flight, want 7", f.peak)
		}
	})
}

// Nothing secret is logged at any level or shown in an error, whatever happens
// and whatever is echoed.
func TestSecretsStayOutOfLogsAndErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("correct-horse"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		log := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
		sources := []TokenSource{TokenValue(testToken), Login("mill@example.com", file)}
		for i, status := range []int{0, 400, 401, 403, 404, 409, 429, 500, 502, 200, 503} {
			for _, source := range sources {
				f := newFake(t)
				f.users["mill@example.com"] = "correct-horse"
				f.fault = func(r *fakeRequest) (*http.Response, error) {
					if status == 0 || r.after {
						return nil, nil
					}
					_, password, _ := r.BasicAuth()
					return failure(status, fmt.Sprintf("echo %s %s -----BEGIN PUBLIC KEY-----\nMCow", r.Header.Get("Authorization"), password)), nil
				}
				c := f.client(t, func(cfg *Config) { cfg.Log, cfg.Token, cfg.GiveUp = log, source, time.Minute })
				_, err := c.Preauthorize(t.Context(), preauth(t, i))
				fmt.Fprintln(&buf, err, pipeline.Hint(err))
			}
		}
		text := buf.String()
		if !strings.Contains(text, "path=") {
			t.Error("nothing was logged")
		}
		for _, secret := range []string{testToken, "correct-horse", "BEGIN", "login-", "bWlsbEBleGFtcGxlLmNvbT"} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%q is in the log: %s", secret, text[max(0, at-200):at+40])
			}
		}
	})
}

// TLS: what can't heal is said at once, with what to do.
func TestTLSRefusals(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	defer secure.Close()
	ca := writeCA(t, secure)
	tests := []struct{ name, url, ca, hint string }{
		{"unknown authority", secure.URL, "", "--ca-file"},
		{"other name", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), ca, "another host name"},
		{"plain http", strings.Replace(plain.URL, "http:", "https:", 1), ca, "plain HTTP"},
		{"right CA, no Mender there", secure.URL, ca, "server.url"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Config{URL: tt.url, CAFile: tt.ca, Token: TokenValue("x")})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if !strings.Contains(tt.name, "no Mender") { // that one is waited for
				_, err = c.Preauthorize(t.Context(), preauth(t, 1))
				wantOutage(t, err, tt.hint)
			}
			_, err = c.ProbeNow(t.Context())
			wantOutage(t, err, tt.hint)
		})
	}
}

func TestExpiredCertificateHint(t *testing.T) {
	err := &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}
	if !isTLSRefusal(err) || !strings.Contains(errorHint(err), "clock") {
		t.Errorf("refusal %v, hint %q", isTLSRefusal(err), errorHint(err))
	}
}

// A probe is for people at the keyboard: it doesn't wait for GiveUp.
func TestProbeIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fault = func(*fakeRequest) (*http.Response, error) { return nil, errReset }
		began := time.Now()
		_, err := f.client(t).ProbeNow(t.Context())
		wantOutage(t, err, "network")
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	token := TokenValue("x")
	for _, cfg := range []Config{
		{Token: token}, {URL: "http://mender.test", Token: token}, {URL: "https://", Token: token},
		{URL: "https://user:secret-pw@mender.test", Token: token}, {URL: "https://m.test/?a=secret-pw", Token: token},
		{URL: "https://m.test:secret-pw", Token: token},
		{URL: "https://mender.test"}, {URL: "https://mender.test", Token: token, CAFile: "/nonexistent"},
		{URL: "https://mender.test", Token: token, CAFile: "client.go"},
	} {
		_, err := New(cfg)
		if err == nil || pipeline.Hint(err) == "" || strings.Contains(err.Error(), "secret-pw") {
			t.Errorf("%q, CA %q: error %v, hint %q", cfg.URL, cfg.CAFile, err, pipeline.Hint(err))
		}
	}
}

func TestTokensAreChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, content := range []string{"", "\n", "two words", "line\nline", "t\x00n", "ünïcode"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := TokenFile(path).Token(context.Background(), nil)
		if err == nil || pipeline.Hint(err) == "" {
			t.Errorf("%q: error %v", content, err)
		}
	}
	if _, err := TokenFile(path+"x").Token(context.Background(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
