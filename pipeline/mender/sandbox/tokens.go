package sandbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// tokens issues and checks the JWTs of both sides: the management API's, as
// useradm and personal access tokens are, and the devices'.
type tokens struct {
	secret []byte
	life   time.Duration
	// generation counts the revocations of this process: management tokens of an
	// earlier generation are dead.
	generation atomic.Int64
	// last is the management token that was found good last: a whole lot is done
	// with one token, and its HMAC need not be computed for every request.
	last atomic.Pointer[goodToken]

	mu sync.Mutex
	// issued holds when the newest token of an auth set was issued (Unix
	// nanoseconds), and ending since when its tokens are no good. Neither is kept
	// beyond the process: a restart forgets that tokens were deleted.
	issued, ending map[string]int64 // guarded by mu
}

type goodToken struct {
	raw        string
	generation int64
	expiry     int64 // Unix seconds
}

// claims are those that a Mender server puts into its tokens. Generation is the
// sandbox's own.
type claims struct {
	ID         string `json:"jti"`
	Subject    string `json:"sub"`
	Issuer     string `json:"iss"`
	Expiry     int64  `json:"exp"`
	Issued     int64  `json:"iat"`
	Generation int64  `json:"sandbox.generation"`
	Nanos      int64  `json:"sandbox.nanos,omitempty"` // of a device's token: Issued, finer
	User       bool   `json:"mender.user,omitempty"`
	Device     bool   `json:"mender.device,omitempty"`
}

// deviceTokenLife is that of the real service.
const deviceTokenLife = 7 * 24 * time.Hour

func newTokens(secret []byte, life time.Duration) *tokens {
	return &tokens{secret: secret, life: life, issued: map[string]int64{}, ending: map[string]int64{}}
}

// end ends the tokens of an auth set that were issued so far. It reports whether
// there were any.
func (t *tokens) end(setID string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.issued[setID]
	if ok {
		t.ending[setID] = at
		delete(t.issued, setID)
	}
	return ok
}

// ended reports whether a device's token was deleted.
func (t *tokens) ended(c claims) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.ending[c.ID]
	return ok && c.Nanos <= at
}

func (t *tokens) management(now time.Time) string {
	return t.sign(claims{
		ID:      newRequestID(),
		Subject: "keymill-sandbox-user",
		User:    true,
		Expiry:  now.Add(t.life).Unix(),
	}, now)
}

func (t *tokens) device(deviceID, setID string, now time.Time) string {
	t.mu.Lock()
	t.issued[setID] = now.UnixNano()
	t.mu.Unlock()
	return t.sign(claims{
		ID:      setID,
		Subject: deviceID,
		Device:  true,
		Nanos:   now.UnixNano(),
		Expiry:  now.Add(deviceTokenLife).Unix(),
	}, now)
}

func (t *tokens) sign(c claims, now time.Time) string {
	c.Issuer, c.Issued, c.Generation = "keymill sandbox", now.Unix(), t.generation.Load()
	payload, err := json.Marshal(c)
	if err != nil {
		return "" // a struct of strings and numbers always marshals
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) +
		"." + base64.RawURLEncoding.EncodeToString(payload)
	return head + "." + t.mac(head)
}

func (t *tokens) mac(head string) string {
	h := hmac.New(sha256.New, t.secret)
	h.Write([]byte(head))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (t *tokens) revoke() { t.generation.Add(1) }

// Why a token is refused.
var (
	errNoToken      = errors.New("no Bearer token in the Authorization header")
	errBadToken     = errors.New("token is invalid")
	errExpiredToken = errors.New("token is expired")
)

// checkManagement checks the Authorization header of a management call.
func (t *tokens) checkManagement(header string, now time.Time) error {
	raw, ok := bearer(header)
	if !ok {
		return errNoToken
	}
	good := t.last.Load()
	if good == nil || good.raw != raw {
		c, err := t.parse(raw)
		if err != nil {
			return err
		}
		if !c.User {
			return errBadToken
		}
		good = &goodToken{raw: raw, generation: c.Generation, expiry: c.Expiry}
		t.last.Store(good)
	}
	if now.Unix() >= good.expiry {
		return errExpiredToken
	}
	if good.generation < t.generation.Load() {
		return errBadToken
	}
	return nil
}

// checkDevice returns the claims of a device's token; whether its auth set is
// still accepted is for the store to say.
func (t *tokens) checkDevice(header string, now time.Time) (claims, error) {
	raw, ok := bearer(header)
	if !ok {
		return claims{}, errNoToken
	}
	c, err := t.parse(raw)
	switch {
	case err != nil:
		return claims{}, err
	case !c.Device:
		return claims{}, errBadToken
	case now.Unix() >= c.Expiry:
		return claims{}, errExpiredToken
	}
	return c, nil
}

// parse checks the signature only.
func (t *tokens) parse(raw string) (claims, error) {
	dot := strings.LastIndexByte(raw, '.')
	if dot < 0 || !hmac.Equal([]byte(t.mac(raw[:dot])), []byte(raw[dot+1:])) {
		return claims{}, errBadToken
	}
	_, payload, _ := strings.Cut(raw[:dot], ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return claims{}, errBadToken
	}
	var c claims
	if err := json.Unmarshal(data, &c); err != nil {
		return claims{}, errBadToken
	}
	return c, nil
}

// bearer returns the token of an Authorization header.
func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}
