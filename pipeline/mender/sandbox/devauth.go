package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
)

// readBody reads a body whose length may be known (-1 if not).
func readBody(body io.Reader, length int64) ([]byte, error) {
	if length < 0 {
		return io.ReadAll(body)
	}
	data := make([]byte, length)
	n, err := io.ReadFull(body, data)
	return data[:n], err
}

// preauthRequest is the body of POST /devices.
type preauthRequest struct {
	Force    bool           `json:"force"`
	Identity map[string]any `json:"identity_data"`
	PubKey   string         `json:"pubkey"`
	Tier     string         `json:"tier"` // ignored where the service knows none
}

var (
	errNoIdentity = errors.New("identity_data: cannot be blank")
	errNoPubKey   = errors.New("pubkey: cannot be blank")
)

// parsePreauth reads the first JSON value of a body; the service ignores what
// follows it.
func (cfg *Config) parsePreauth(body []byte) (id identity, key setKey, force bool, err error) {
	var req preauthRequest
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&req); err != nil {
		return "", key, false, err
	}
	switch {
	case len(req.Identity) == 0:
		return "", key, false, errNoIdentity
	case req.PubKey == "":
		return "", key, false, errNoPubKey
	}
	spki, err := parsePublicKey([]byte(req.PubKey))
	if err != nil {
		return "", key, false, err
	}
	tier, err := cfg.tierOf(req.Tier)
	if err != nil {
		return "", key, false, err
	}
	id, err = canonicalIdentity(req.Identity)
	return id, setKey{string(spki), tier}, req.Force, err
}

func (s *Sandbox) preauthorize(r *request) answer {
	id, key, force, err := s.cfg.parsePreauth(r.body)
	if err != nil {
		return r.failure(http.StatusBadRequest, "failed to decode preauth request: "+err.Error())
	}
	location, existing, err := s.store.preauthorize(id, key, force, r.fault == FaultOrphan500)
	switch {
	case errors.Is(err, errExists):
		return jsonAnswer(http.StatusConflict, existing)
	case err != nil:
		return r.internal()
	}
	return answer{status: http.StatusCreated, location: "devices/" + location}
}

func (s *Sandbox) get(r *request) answer {
	device, err := s.store.get(r.PathValue("id"))
	if err != nil {
		return r.failure(http.StatusNotFound, err.Error())
	}
	return jsonAnswer(http.StatusOK, device)
}

// delete starts to delete a device. Its 404 has no body.
func (s *Sandbox) delete(r *request) answer {
	if err := s.store.decommissionDevice(r.PathValue("id")); err != nil {
		return answer{status: http.StatusNotFound}
	}
	return answer{status: http.StatusNoContent}
}

func (s *Sandbox) deleteSet(r *request) answer {
	switch err := s.store.deleteSet(r.PathValue("id"), r.PathValue("aid")); {
	case err == nil:
		return answer{status: http.StatusNoContent}
	case errors.Is(err, errNoSet):
		return answer{status: http.StatusNotFound}
	}
	return r.internal()
}

func (s *Sandbox) getStatus(r *request) answer {
	st, err := s.store.setStatusOf(r.PathValue("id"), r.PathValue("aid"))
	if err != nil {
		return r.failure(http.StatusNotFound, err.Error())
	}
	return jsonAnswer(http.StatusOK, []byte(`{"status":"`+st.String()+`"}`))
}

func (s *Sandbox) putStatus(r *request) answer {
	var req struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(r.body, &req); err != nil {
		return r.failure(http.StatusBadRequest, "failed to decode status data: "+err.Error())
	}
	to, ok := parseStatus(req.Status)
	if !ok || to == preauthorized || to == noauth {
		return r.failure(http.StatusBadRequest, "incorrect device status")
	}
	switch err := s.store.putSetStatus(r.PathValue("id"), r.PathValue("aid"), to, s.cfg.limitOf); {
	case err == nil:
		return answer{status: http.StatusNoContent}
	case errors.Is(err, errNoDevice), errors.Is(err, errNoSet):
		return r.failure(http.StatusNotFound, err.Error())
	case errors.Is(err, errStatus):
		return r.failure(http.StatusBadRequest, err.Error())
	case errors.Is(err, errTooMany):
		return r.failure(http.StatusUnprocessableEntity, err.Error())
	}
	return r.internal()
}

// deleteToken ends the token of an auth set; a device then asks for a new one.
func (s *Sandbox) deleteToken(r *request) answer {
	if !s.tokens.end(r.PathValue("id")) {
		return answer{status: http.StatusNotFound}
	}
	return answer{status: http.StatusNoContent}
}

// limit answers -1 for a limit that is not set, or 0 on 4.1.
func (s *Sandbox) limit(r *request) answer {
	name := r.PathValue("name")
	tier, ok := "", name == "max_devices"
	for _, t := range tierNames {
		switch {
		case !s.cfg.takesTiers():
		case t == tierNames[0] && ok, name == "max_"+t+"_devices":
			tier, ok = t, true
		}
	}
	if !ok {
		return r.failure(http.StatusBadRequest, "unsupported limit "+name)
	}
	limit := s.cfg.limitOf(tier)
	if limit == unlimited && s.cfg.Version == Mender41 {
		limit = 0
	}
	return jsonAnswer(http.StatusOK, []byte(`{"limit":`+strconv.Itoa(limit)+`}`))
}

// me shows the user of the token.
func (s *Sandbox) me(r *request) answer {
	body, err := json.Marshal(struct {
		ID    string   `json:"id"`
		Email string   `json:"email"`
		Roles []string `json:"roles,omitempty"`
	}{"keymill-sandbox-user", s.cfg.User, s.cfg.Roles})
	if err != nil {
		return r.internal()
	}
	return jsonAnswer(http.StatusOK, body)
}

// login grants a management token for a user's name and password.
func (s *Sandbox) login(r *request) answer {
	user, password, ok := r.BasicAuth()
	if !ok || s.cfg.User == "" || user != s.cfg.User || password != s.cfg.Password {
		return r.failure(http.StatusUnauthorized, "unauthorized")
	}
	return answer{status: http.StatusOK, mime: mimeJWT, body: []byte(s.Token())}
}
