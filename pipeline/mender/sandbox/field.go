package sandbox

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// authRequest is the body of a device's auth request. Clients from 5 on add a
// tier, which changes nothing here.
type authRequest struct {
	IDData      string `json:"id_data"`
	PubKey      string `json:"pubkey"`
	TenantToken string `json:"tenant_token"`
}

func parseAuthRequest(body []byte) (identity, []byte, error) {
	var req authRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return "", nil, err
	}
	switch {
	case req.IDData == "":
		return "", nil, errors.New("id_data must be provided")
	case req.PubKey == "":
		return "", nil, errors.New("pubkey must be provided")
	}
	spki, err := parsePublicKey([]byte(req.PubKey))
	if err != nil {
		return "", nil, err
	}
	id, err := parseIdentity([]byte(req.IDData))
	return id, spki, err
}

// authorize answers a device that boots. The signature is checked before
// anything is stored: the real service checks it afterwards, so that there an
// accepted device need not hold its key; here it must, because that is what a
// trial wants to know.
func (s *Sandbox) authorize(r *request) answer {
	id, spki, err := parseAuthRequest(r.body)
	if err != nil {
		return r.failure(http.StatusBadRequest, "invalid auth request: "+err.Error())
	}
	signature := r.Header.Get("X-MEN-Signature")
	if signature == "" {
		return r.failure(http.StatusBadRequest, "missing request signature header")
	}
	if err := verifySignature(spki, signature, r.body); err != nil {
		return r.failure(http.StatusUnauthorized, err.Error())
	}
	deviceID, setID, err := s.store.authorize(id, string(spki), s.cfg.MaxDevices)
	switch {
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
		if err != nil || !s.store.holdsToken(c.Subject, c.ID) {
			return r.failure(http.StatusUnauthorized, "unauthorized")
		}
		return answer{status: status}
	}
}
