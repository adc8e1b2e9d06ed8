// Package notify tells people and programs what became of lots: by webhook, by
// a command, from an outbox that survives crashes.
package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
)

// Schema names the form of a notification's JSON.
const Schema = "keymill.notification/1"

// What notifications tell of.
const (
	LotClosed  = "lot-closed"  // every device is released
	LotFailed  = "lot-failed"  // devices failed or conflict, or the lot was stopped; it will be taken up again
	LotRefused = "lot-refused" // the manifest was refused, nothing was changed
)

// Notification is what a webhook and the hook command get. It says nothing
// about single devices, and holds no secret.
type Notification struct {
	Schema string `json:"schema"`
	// ID is the same each time the same thing is told: a crash may make keymill
	// tell it twice.
	ID       string           `json:"id"`
	Event    string           `json:"event"`
	Time     time.Time        `json:"time"`
	Station  string           `json:"station"`
	Lot      string           `json:"lot"`
	Manifest string           `json:"manifest"`
	ExitCode int              `json:"exit_code"`
	Error    string           `json:"error,omitempty"`
	Hint     string           `json:"hint,omitempty"`
	Problems int              `json:"problems,omitempty"`
	Totals   *pipeline.Totals `json:"totals,omitempty"`
	// Moved is where the manifest lies now.
	Moved string `json:"moved,omitempty"`
}

// webhook posts notifications, signed as standardwebhooks.com specifies.
type webhook struct {
	url    string
	secret []byte
	client *retryablehttp.Client
}

// newWebhook returns the configured webhook, nil if there is none.
func newWebhook(cfg config.NotifyConfig, env config.Environ) (*webhook, error) {
	if cfg.URL == "" {
		return nil, nil
	}
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !config.Loopback(u.Hostname())) {
		// The URL is not shown: with some receivers it is the password.
		return nil, fault.Usagef("notify.url must be an https URL, or http on this machine")
	}
	secret, err := webhookSecret(cfg.SecretFile, env)
	if err != nil {
		return nil, fault.As(fault.Usage, err)
	}
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.RetryWaitMin, client.RetryWaitMax, client.RetryMax = 250*time.Millisecond, 4*time.Second, 8
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	client.HTTPClient.Timeout = 10 * time.Second
	// What is signed for one address goes to no other one.
	client.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if cfg.CAFile != "" {
		if err := config.Trust(client.HTTPClient, cfg.CAFile); err != nil {
			return nil, fault.As(fault.Usage, fmt.Errorf("notify.ca_file: %w", err))
		}
	}
	return &webhook{cfg.URL, secret, client}, nil
}

// webhookSecret finds the key that signs: a file that is named, the systemd
// credential, the environment.
func webhookSecret(file string, env config.Environ) ([]byte, error) {
	text := env.Get("KEYMILL_WEBHOOK_SECRET")
	if file == "" {
		if credential, given := env.CredentialFile("webhook-secret"); given {
			file = credential
		}
	}
	if file != "" {
		if err := env.GuardSecret("notify.secret_file", file); err != nil {
			return nil, err
		}
		data, err := files.ReadShort(file)
		if err != nil {
			return nil, err
		}
		text = string(data)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, pipeline.WithHint(errors.New("there is no key to sign webhook calls with"),
			"Set notify.secret_file, or provide the systemd credential webhook-secret or KEYMILL_WEBHOOK_SECRET.")
	}
	if encoded, ok := strings.CutPrefix(text, "whsec_"); ok {
		secret, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, errors.New("the key to sign webhook calls with begins with whsec_, but is not base64 after it")
		}
		return secret, nil
	}
	return []byte(text), nil
}

// sign returns the value of the header webhook-signature.
func (h *webhook) sign(id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, h.secret)
	fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// deliver posts one notification until the receiver takes it, says that it
// never will, or ctx ends.
func (h *webhook) deliver(ctx context.Context, n *Notification, body []byte) error {
	body = bytes.TrimSpace(body) // a shell that checks the signature loses a line end
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	now := time.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "keymill/"+build.Version())
	req.Header.Set("Webhook-Id", n.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", h.sign(n.ID, now, body))
	resp, err := h.client.Do(req)
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // without the URL
	}
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return err
	}
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("webhook: %s", resp.Status)
	}
	return &refusedError{fmt.Errorf("webhook: %s", resp.Status)}
}
