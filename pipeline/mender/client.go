// Package mender is the client of the Mender management API: it preauthorizes
// devices, finds out what the server really holds after an answer that leaves
// it open, and compares or removes what a lot has put there.
//
// A Client is one conversation with one tenant of one server. Hundreds of
// goroutines may use it at once: what is in flight is limited inside, by one
// gate through which every request passes. The gate follows what the server
// can take, keeps to a quota once it has met it, stops everybody when the
// server says Retry-After or is down, and lets one request try when the pause
// is over. Retries happen in one place, below the calls of the API.
package mender

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"keymill/pipeline"
)

// Defaults of Config.
const (
	DefaultInFlight = 16
	DefaultGiveUp   = 15 * time.Minute
	DefaultTimeout  = 30 * time.Second
)

// Config says which server, as whom, and how hard.
type Config struct {
	// URL is the server's address: https, with a path prefix where a proxy
	// wants one. Plain http is refused: the token would travel in the clear.
	URL string
	// Token is where the bearer token comes from.
	Token TokenSource
	// CAFile names a PEM file of certificates that are trusted in addition to
	// the system's. Empty: only the system's.
	CAFile string
	// InFlight is the most requests that may be under way at once, default 16.
	// The client finds by itself how many of them are worth it.
	InFlight int
	// Tier is the device tier that preauthorized devices get, where the server
	// knows tiers: TierStandard, the default, TierMicro or TierSystem.
	Tier string
	// UserAgent is sent with every request, default "keymill".
	UserAgent string
	// Log takes what happens between the calls: pauses, quotas, healed and
	// replaced devices; every request at debug level. Neither the token nor
	// bodies are ever logged. Default: nothing.
	Log *slog.Logger
	// GiveUp is how long a server may be down before calls end with an
	// *pipeline.Outage, default 15 minutes.
	GiveUp time.Duration
	// Timeout is how long one attempt may take, body included, default 30 s.
	// Listings get four times as long.
	Timeout time.Duration
	// Transport carries the requests; nil for the client's own, which takes a
	// proxy from the environment (HTTPS_PROXY, NO_PROXY) and speaks HTTP/2
	// where it is offered.
	Transport http.RoundTripper
	// Follow is told when a request is sent, and returns what is called with
	// its answer; for traces. It is called by many goroutines at once and must
	// not wait. nil is allowed.
	Follow func(ctx context.Context, request Attempt) (answered func(Answer))
}

// Attempt is one request, as Config.Follow sees it. Neither token nor body are
// in it.
type Attempt struct {
	Method string
	URL    *url.URL // without credentials
	Number int      // of this request within its call, from 1
}

// Answer is what came back for an Attempt.
type Answer struct {
	Status    int    // 0 if there was none
	RequestID string // X-MEN-RequestID
	Protocol  string // as HTTP/2.0
	Err       error  // why there was no whole answer
}

// Client is a conversation with one tenant of a Mender server. All methods may
// be called by many goroutines at once.
type Client struct {
	base    *url.URL
	log     *slog.Logger
	timeout time.Duration
	giveUp  time.Duration
	retry   *retryablehttp.Client
	wire    *wire
	gate    *gate
	token   *tokenKeeper
	looks   looker
	tier    tiers
}

var _ pipeline.Server = (*Client)(nil)

// New checks the configuration and returns a client. It asks the server
// nothing; Probe does.
func New(cfg Config) (*Client, error) {
	base, err := parseBase(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Token == nil {
		return nil, pipeline.WithHint(errNoToken, "Set server.token_file, or KEYMILL_TOKEN in the environment.")
	}
	if err := CheckTier(cfg.Tier); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	inner := cfg.Transport
	if inner == nil {
		if inner, err = newTransport(cfg.CAFile, cfg.InFlight); err != nil {
			return nil, err
		}
	}
	c := &Client{base: base, log: cfg.Log, timeout: cfg.Timeout, giveUp: cfg.GiveUp}
	c.gate = newGate(cfg.InFlight, cfg.GiveUp, cfg.Log)
	c.token = newTokenKeeper(cfg.Token, c.login, cfg.UserAgent, cfg.Log)
	c.wire = &wire{inner: inner, gate: c.gate, token: c.token, log: cfg.Log, follow: cfg.Follow}
	c.retry = newRetryClient(c.wire)
	c.looks.c = c
	c.tier.wanted = cmp.Or(cfg.Tier, TierStandard)
	return c, nil
}

func (cfg *Config) setDefaults() {
	if cfg.InFlight <= 0 {
		cfg.InFlight = DefaultInFlight
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "keymill"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.GiveUp <= 0 {
		cfg.GiveUp = DefaultGiveUp
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
}

// Close closes the connections that lie idle.
func (c *Client) Close() {
	if t, ok := c.wire.inner.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// URL returns the server's address as it is used.
func (c *Client) URL() string { return c.base.String() }

// login exchanges user and password for a JWT
// (POST /api/management/v1/useradm/auth/login, HTTP Basic, the token is the body).
func (c *Client) login(ctx context.Context, user, password string) (string, error) {
	k := &call{method: http.MethodPost, path: loginPath, user: user, password: password, settles: []int{http.StatusOK}}
	var token string
	k.decode = func(a *answer) error {
		token = strings.TrimSpace(string(a.body))
		return checkToken(token)
	}
	if err := c.do(ctx, k); err != nil {
		return "", err
	}
	return token, nil
}

const (
	apiPath   = "/api/management/v2/devauth"
	loginPath = "/api/management/v1/useradm/auth/login"
	userPath  = "/api/management/v1/useradm/users/me"

	inventoryV1 = "/api/management/v1/inventory"
	inventoryV2 = "/api/management/v2/inventory"
)

// parseBase accepts https URLs without query, fragment and credentials.
func parseBase(raw string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(raw, "/"))
	switch {
	case err != nil:
		// url.Error repeats the whole URL, which may hold a password.
		return nil, pipeline.WithHint(errBadURL, "The server's address looks like https://hosted.mender.io.")
	case u.Scheme != "https" || u.Host == "":
		return nil, pipeline.WithHint(errBadURL, "Give an https:// address; tokens never travel over plain http.")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, pipeline.WithHint(errBadURL, "Give scheme, host and path only; the token has a setting of its own.")
	}
	return u, nil
}
