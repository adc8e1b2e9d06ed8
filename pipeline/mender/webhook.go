package mender

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// WebhookEvent is what Mender's webhook tells of a device. The service sends each
// event once: what the receiver misses is lost.
type WebhookEvent struct {
	Type     string // device-status-changed, device-provisioned, device-decommissioned
	DeviceID string
	Status   string // of the device; empty for a decommissioned one
	// AuthSets are those that the event came from; servers before August 2026 send
	// none with a status change.
	AuthSets []AuthSet
	Time     time.Time
}

const (
	webhookSignature = "X-Men-Signature"
	maxWebhook       = 1 << 20 // bytes of a body
)

var (
	errUnsigned  = errors.New("the webhook's signature is missing or wrong")
	errNoWebhook = errors.New("this is no event of Mender's webhook")
)

// ParseWebhook reads an event after checking its signature: HMAC-SHA256 over the
// body, hexadecimal.
func ParseWebhook(secret []byte, signature string, body []byte) (*WebhookEvent, error) {
	sent, err := hex.DecodeString(signature)
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	if err != nil || len(secret) == 0 || !hmac.Equal(sent, mac.Sum(nil)) {
		return nil, errUnsigned
	}
	var e struct {
		Type string     `json:"type"`
		Data wireDevice `json:"data"`
		Time wireTime   `json:"time"`
	}
	if json.Unmarshal(body, &e) != nil || e.Type == "" || e.Data.ID == "" {
		return nil, errNoWebhook
	}
	dev := e.Data.device()
	return &WebhookEvent{Type: e.Type, DeviceID: dev.ID, Status: dev.Status, AuthSets: dev.AuthSets, Time: e.Time.Time}, nil
}

// NewWebhook receives events and hands them to told, which is called by many
// goroutines at once. What is not signed with the secret is refused with 401.
func NewWebhook(secret []byte, told func(*WebhookEvent)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWebhook))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		e, err := ParseWebhook(secret, r.Header.Get(webhookSignature), body)
		switch {
		case errors.Is(err, errUnsigned):
			w.WriteHeader(http.StatusUnauthorized)
			return
		case err != nil:
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		told(e)
		w.WriteHeader(http.StatusNoContent)
	})
}
