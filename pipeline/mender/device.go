package mender

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"time"

	"keymill/pipeline"
)

// The statuses of devices and auth sets.
const (
	StatusPreauthorized = "preauthorized"
	StatusAccepted      = "accepted"
	StatusPending       = "pending"
	StatusRejected      = "rejected"
	StatusNoAuth        = "noauth"
)

// Device is a device as the server shows it (GET /devices/{id}).
type Device struct {
	ID              string
	Identity        pipeline.Identity    // nil if a value is no string: such a device isn't ours
	Sum             pipeline.IdentitySum // of the identity, also of a foreign one
	Status          string
	Decommissioning bool // it is being deleted
	AuthSets        []AuthSet
	Created         time.Time // zero if the server doesn't say
	Updated         time.Time // zero if the server doesn't say
}

// AuthSet is one key that the server knows for a device.
type AuthSet struct {
	ID     string
	SPKI   []byte // DER; nil if the server's text can't be read
	Tier   string // empty where the server knows no tiers
	Status string
	Time   time.Time // of its last change; zero if the server doesn't say
}

// Live reports whether a device can authenticate with this key now.
func (s *AuthSet) Live() bool {
	return s.Status == StatusPreauthorized || s.Status == StatusAccepted
}

// ErrNotFound says that the server doesn't know the device.
var ErrNotFound = errors.New("the server doesn't know this device")

// Device asks for one device by the server's id. ErrNotFound if there is none.
func (c *Client) Device(ctx context.Context, id string) (*Device, error) {
	dev, _, err := c.device(ctx, id)
	return dev, err
}

// device also returns the call, for its request id and its attempts.
func (c *Client) device(ctx context.Context, id string) (*Device, *call, error) {
	var dev *Device
	k := &call{
		method: http.MethodGet, path: devicePath(id),
		settles: []int{http.StatusOK, http.StatusNotFound},
		decode: func(a *answer) (err error) {
			if a.status == http.StatusOK {
				dev, err = parseDevice(a.body)
			}
			return err
		},
	}
	if err := c.do(ctx, k); err != nil {
		return nil, k, err
	}
	if k.status == http.StatusNotFound {
		return nil, k, ErrNotFound
	}
	return dev, k, nil
}

func devicePath(id string) string { return apiPath + "/devices/" + url.PathEscape(id) }

// wireDevice is the JSON of a device.
type wireDevice struct {
	ID              string          `json:"id"`
	IdentityData    json.RawMessage `json:"identity_data"`
	Status          string          `json:"status"`
	Decommissioning bool            `json:"decommissioning"`
	AuthSets        []struct {
		ID     string   `json:"id"`
		PubKey string   `json:"pubkey"`
		Tier   string   `json:"tier"`
		Status string   `json:"status"`
		Time   wireTime `json:"ts"`
	} `json:"auth_sets"`
	Created wireTime `json:"created_ts"`
	Updated wireTime `json:"updated_ts"`
}

// wireTime is an RFC 3339 time; anything else counts as unknown, because no
// decision hangs on it.
type wireTime struct{ time.Time }

func (t *wireTime) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		t.Time, _ = time.Parse(time.RFC3339Nano, text)
	}
	return nil
}

// parseDevice reads the JSON of one device, as GET /devices/{id} and the 409
// of a preauthorization give it.
func parseDevice(body []byte) (*Device, error) {
	var w wireDevice
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, err
	}
	if w.ID == "" {
		return nil, errGarbled
	}
	return w.device(), nil
}

func (w *wireDevice) device() *Device {
	d := &Device{
		ID: w.ID, Status: w.Status, Decommissioning: w.Decommissioning,
		Created: w.Created.Time, Updated: w.Updated.Time,
		AuthSets: make([]AuthSet, len(w.AuthSets)),
	}
	d.Identity, d.Sum = readIdentity(w.IdentityData)
	for i, s := range w.AuthSets {
		d.AuthSets[i] = AuthSet{ID: s.ID, SPKI: readPublicKey(s.PubKey), Tier: s.Tier, Status: s.Status, Time: s.Time.Time}
	}
	return d
}

// readIdentity returns a nil identity where values are no strings; the sum then
// is that of the text, which equals none of ours.
func readIdentity(raw json.RawMessage) (pipeline.Identity, pipeline.IdentitySum) {
	attrs, err := pipeline.UnmarshalAttrs(raw)
	if err != nil || len(attrs) == 0 {
		return nil, sha256.Sum256(raw)
	}
	id := pipeline.Identity(attrs)
	return id, id.Sum()
}

// readPublicKey returns the SPKI in a PEM, nil if there is none.
func readPublicKey(text string) []byte {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil
	}
	return block.Bytes
}

// sameKey compares public keys as keys: two encodings of one key are the same.
func sameKey(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	return bytes.Equal(a, b) || bytes.Equal(normalKey(a), normalKey(b))
}

// normalKey encodes a key again as the server does before it stores it.
func normalKey(spki []byte) []byte {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return spki
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return spki
	}
	return der
}
