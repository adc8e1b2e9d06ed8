package sandbox

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// authRequest is the body of a device's auth request. Clients from 5 on add a
// tier, which services without tiers ignore.
type authRequest struct {
	IDData      string `json:"id_data"`
	PubKey      string `json:"pubkey"`
	TenantToken string `json:"tenant_token"`
	Tier        string `json:"tier"`
}

func (cfg *Config) parseAuthRequest(body []byte) (identity, setKey, error) {
	var req authRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return "", setKey{}, err
	}
	switch {
	case req.IDData == "":
		return "", setKey{}, errors.New("id_data must be provided")
	case req.PubKey == "":
		return "", setKey{}, errors.New("pubkey must be provided")
	}
	spki, err := parsePublicKey([]byte(req.PubKey))
	if err != nil {
		return "", setKey{}, err
	}
	tier, err := cfg.tierOf(req.Tier)
	if err != nil {
		return "", setKey{}, err
	}
	id, err := parseIdentity([]byte(req.IDData))
	return id, setKey{string(spki), tier}, err
}

// authorize answers a device that boots. Main checks the signature before
// anything else; 4.1 only before it hands out a token, so that there a request
// that nobody could sign leaves its traces, and even gets a key accepted.
func (s *Sandbox) authorize(r *request) answer {
	id, key, err := s.cfg.parseAuthRequest(r.body)
	if err != nil {
		return r.failure(http.StatusBadRequest, "invalid auth request: "+err.Error())
	}
	signature := r.Header.Get("X-MEN-Signature")
	if signature == "" {
		return r.failure(http.StatusBadRequest, "missing request signature header")
	}
	unsigned := verifySignature([]byte(key.spki), signature, r.body)
	if unsigned != nil && s.cfg.Version != Mender41 {
		return r.failure(http.StatusUnauthorized, unsigned.Error())
	}
	deviceID, setID, err := s.store.authorize(id, key, s.cfg.limitOf(key.tier))
	switch {
	case err == nil && unsigned != nil:
		return r.failure(http.StatusUnauthorized, unsigned.Error())
	case err == nil:
		token := s.tokens.device(deviceID, setID, time.Now())
		return answer{status: http.StatusOK, mime: mimeJWT, body: []byte(token)}
	case errors.Is(err, errRefused):
		return r.failure(http.StatusUnauthorized, err.Error())
	case errors.Is(err, errTooMany):
		return r.failure(http.StatusUnauthorized, "unauthorized")
	}
	return r.internal()
}

// fromDevice answers an accepted device's other calls with a status: there is
// never anything to install, and its inventory is welcome.
func (s *Sandbox) fromDevice(status int) call {
	return func(r *request) answer {
		c, err := s.tokens.checkDevice(r.Header.Get("Authorization"), time.Now())
		if err != nil || s.tokens.ended(c) || !s.store.holdsToken(c.Subject, c.ID) {
			return r.failure(http.StatusUnauthorized, "unauthorized")
		}
		return answer{status: status}
	}
}
