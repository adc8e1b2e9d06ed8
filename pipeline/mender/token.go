package mender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"keymill/pipeline"
)

// LoginFunc asks the server for a token with user and password.
type LoginFunc func(ctx context.Context, user, password string) (string, error)

// TokenSource says where the bearer token comes from. It is asked at the first
// request and again after a 401, by one goroutine at a time. Errors must not
// contain the token.
type TokenSource interface {
	Token(ctx context.Context, login LoginFunc) (string, error)
}

type tokenFile string

// TokenFile reads the token from a file, again after every 401, so that a
// token that is renewed beside a running lot is picked up.
func TokenFile(path string) TokenSource { return tokenFile(path) }

func (f tokenFile) Token(context.Context, LoginFunc) (string, error) {
	return readSecret(string(f), "token")
}

type tokenValue string

// TokenValue is a token that somebody else has read, from the environment or a
// credential store.
func TokenValue(token string) TokenSource { return tokenValue(token) }

func (v tokenValue) Token(context.Context, LoginFunc) (string, error) {
	token := strings.TrimSpace(string(v))
	return token, checkToken(token)
}

type userLogin struct{ user, passwordFile string }

// Login asks the server for a token with a user's name and the password in a
// file, again when the token has expired.
func Login(user, passwordFile string) TokenSource { return userLogin{user, passwordFile} }

func (l userLogin) Token(ctx context.Context, login LoginFunc) (string, error) {
	password, err := readSecret(l.passwordFile, "password")
	if err != nil {
		return "", err
	}
	return login(ctx, l.user, password)
}

var (
	errNoToken  = errors.New("no token for the Mender server is configured")
	errBadToken = errors.New("the token is empty or holds characters that no token has")
	errBadURL   = errors.New("the address of the Mender server is not usable")
)

func readSecret(path, what string) (string, error) {
	data, err := readShort(path)
	if err != nil {
		return "", pipeline.WithHint(fmt.Errorf("the %s can't be read: %w", what, err),
			"Put the %s of the Mender server into that file (mode 0600), or name another one.", what)
	}
	secret := strings.TrimPrefix(string(data), "\ufeff") // as Windows editors begin a text
	secret = strings.TrimRight(secret, "\r\n")           // a password may end in a space
	if what == "token" {
		secret = strings.TrimSpace(secret)
	}
	if secret == "" {
		return "", pipeline.WithHint(fmt.Errorf("the %s file %s is empty", what, path),
			"Put the %s of the Mender server into it.", what)
	}
	if what == "token" {
		err = checkToken(secret)
	}
	return secret, err
}

// readShort reads no more of a file than a secret can have, in case that it is
// another file.
func readShort(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, 128<<10))
}

// checkToken accepts what may stand in an Authorization header (RFC 6750,
// section 2.1, and a little more), so that a wrong file is found out before it
// is sent anywhere.
func checkToken(token string) error {
	bad := strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
	if token == "" || bad >= 0 || len(token) > 64<<10 {
		return pipeline.WithHint(errBadToken, "The file must hold the token and nothing else, on one line.")
	}
	return nil
}

// renewPause is how long a refused token is waited for to be replaced.
const renewPause = time.Second

// bearer is a token in use, with the headers that carry it. It is never changed
// once it is made, so that all requests share it.
type bearer struct {
	token string
	plain http.Header // for requests without a body
	json  http.Header // for requests with a JSON body
}

// tokenKeeper hands out the token in use and renews it when it is refused.
type tokenKeeper struct {
	source TokenSource
	login  LoginFunc
	log    *slog.Logger
	agent  string

	renewing chan struct{} // of capacity 1: full while the source is asked
	mu       sync.Mutex    // guards the following
	now      *bearer       // nil before the first
	stale    *bearer       // the last that was refused
}

func newTokenKeeper(source TokenSource, login LoginFunc, agent string, log *slog.Logger) *tokenKeeper {
	return &tokenKeeper{source: source, login: login, agent: agent, log: log, renewing: make(chan struct{}, 1)}
}

func (k *tokenKeeper) current() *bearer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// usable reports whether there is a token that hasn't been refused.
func (k *tokenKeeper) usable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now != nil && k.now != k.stale
}

// refuse notes that the server doesn't take the token any more; nobody needs to
// find that out again.
func (k *tokenKeeper) refuse(b *bearer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stale = b
}

// renew asks the source again unless somebody else has done so since old was
// handed out. old is nil for the first token.
func (k *tokenKeeper) renew(ctx context.Context, old *bearer) (*bearer, error) {
	select {
	case k.renewing <- struct{}{}:
		defer func() { <-k.renewing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if b := k.current(); b != old {
		return b, nil
	}
	token, err := k.source.Token(ctx, k.login)
	if old != nil && (token == old.token || (err != nil && !isOutage(err))) {
		// Whoever renews it may be a little late, or in the middle of writing.
		if err = sleep(ctx, renewPause); err == nil {
			token, err = k.source.Token(ctx, k.login)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, asOutage(err)
	}
	if old != nil {
		k.log.WarnContext(ctx, "the server refused the token; it was read again", "changed", token != old.token)
	}
	b := &bearer{token: token, plain: k.headers(token), json: k.headers(token)}
	b.json.Set("Content-Type", "application/json")
	k.mu.Lock()
	k.now = b
	k.mu.Unlock()
	return b, nil
}

func (k *tokenKeeper) headers(token string) http.Header {
	return http.Header{
		"Accept":        {"application/json"},
		"User-Agent":    {k.agent},
		"Authorization": {"Bearer " + token},
	}
}
