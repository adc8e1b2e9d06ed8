package sandbox

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Webhook is where the sandbox tells what happens to devices, as Mender's
// iot-manager does: one POST for each event, never repeated.
type Webhook struct {
	URL string
	// Secret signs the body: HMAC-SHA256 in X-Men-Signature, hexadecimal. Empty:
	// no signature.
	Secret []byte
	// Client sends; nil for one of its own.
	Client *http.Client
}

// The types of the service's events.
const (
	eventProvisioned    = "device-provisioned"
	eventDecommissioned = "device-decommissioned"
	eventStatusChanged  = "device-status-changed"
)

// webhookTimeout is how long the receiver may take.
const webhookTimeout = 10 * time.Second

// happening is one event of a device. Its JSON is the webhook's body.
type happening struct {
	ID   string        `json:"id"`
	Type string        `json:"type"`
	Data happeningData `json:"data"`
	Time time.Time     `json:"time"`
}

type happeningData struct {
	ID       string         `json:"id"`
	Status   string         `json:"status,omitempty"`
	AuthSets []happeningSet `json:"auth_sets,omitempty"`
	Created  *time.Time     `json:"created_ts,omitempty"`
}

type happeningSet struct {
	ID       string          `json:"id"`
	DeviceID string          `json:"device_id"`
	Identity json.RawMessage `json:"identity_data"`
	PubKey   string          `json:"pubkey"`
	Status   string          `json:"status"`
	Time     time.Time       `json:"ts"`
}

// tell tells what happened to a device, with the auth set that it came from if
// there is one. The shard must be locked.
func (st *store) tell(kind string, d *device, set *authSet) {
	if st.told == nil {
		return
	}
	h := happening{ID: newRequestID(), Type: kind, Time: time.Now().UTC(), Data: happeningData{ID: st.deviceID(d.number)}}
	if kind != eventDecommissioned {
		h.Data.Status = d.status.String()
		created := time.UnixMicro(d.created).UTC()
		h.Data.Created = &created
	}
	if set != nil {
		h.Data.AuthSets = []happeningSet{{
			ID: st.setID(set.number), DeviceID: h.Data.ID, Identity: json.RawMessage(d.identity),
			PubKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(set.spki)})), Status: set.status.String(), Time: time.UnixMicro(set.at).UTC(),
		}}
	}
	st.told(h)
}

// hook sends events, each on its own, in no particular order.
type hook struct {
	to      Webhook
	version Version
	log     *slog.Logger
	running sync.WaitGroup // deliveries

	mu   sync.Mutex
	ctx  context.Context    // guarded by mu; of the deliveries, nil where none may begin
	stop context.CancelFunc // guarded by mu; ends ctx
}

func newHook(to Webhook, version Version, log *slog.Logger) *hook {
	h := &hook{to: to, version: version, log: log}
	if h.to.Client == nil {
		h.to.Client = &http.Client{Timeout: webhookTimeout}
	}
	return h
}

// open lets deliveries begin; they end with ctx. What happened before is not
// told.
func (h *hook) open(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ctx, h.stop = context.WithCancel(ctx)
}

// close cuts off what is under way and waits for it.
func (h *hook) close() {
	h.mu.Lock()
	if h.ctx != nil {
		h.stop()
	}
	h.ctx = nil
	h.mu.Unlock()
	h.running.Wait()
	h.to.Client.CloseIdleConnections()
}

// tell sends an event. On 4.1 a status change carries no auth set.
func (h *hook) tell(e happening) {
	if h.version == Mender41 && e.Type == eventStatusChanged {
		e.Data.AuthSets, e.Data.Created = nil, nil
	}
	body, err := json.Marshal(e)
	if err != nil {
		return // its raw parts were valid JSON when they came
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ctx := h.ctx
	if ctx == nil {
		return
	}
	h.running.Go(func() {
		if err := h.send(ctx, body); err != nil {
			h.log.DebugContext(ctx, "the webhook's receiver didn't take an event", "type", e.Type, "err", err)
		}
	})
}

func (h *hook) send(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.to.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if len(h.to.Secret) > 0 {
		mac := hmac.New(sha256.New, h.to.Secret)
		mac.Write(body)
		req.Header.Set("X-Men-Algorithm", "MEN-HMAC-SHA256-Payload")
		req.Header.Set("X-Men-Signature", hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := h.to.Client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
