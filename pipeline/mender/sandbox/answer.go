package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// answer is what a call is answered with. Handlers return it instead of writing
// it, so that a fault can come between the work and the answer.
type answer struct {
	status     int
	mime       string // of body
	body       []byte
	location   string
	links      []string
	retryAfter int // seconds; 0: no header
	challenge  bool
}

const (
	mimeJSON = "application/json; charset=utf-8"
	mimeJWT  = "application/jwt"
)

func jsonAnswer(status int, body []byte) answer {
	return answer{status: status, mime: mimeJSON, body: body}
}

// failure is an answer with the service's error body.
func (r *request) failure(status int, message string) answer {
	body, err := json.Marshal(struct {
		Error     string `json:"error"`
		RequestID string `json:"request_id"`
	}{message, r.id})
	if err != nil {
		body = nil // two strings always marshal
	}
	return jsonAnswer(status, body)
}

// internal is the service's answer to a failure of its own, which it keeps to
// itself.
func (r *request) internal() answer {
	return r.failure(http.StatusInternalServerError, "internal error")
}

// write sends the answer.
func (a *answer) write(w http.ResponseWriter, id string) {
	h := w.Header()
	h["X-Men-Requestid"] = []string{id}
	if a.mime != "" {
		h["Content-Type"] = []string{a.mime}
	}
	if a.location != "" {
		h["Location"] = []string{a.location}
	}
	if a.links != nil {
		h["Link"] = a.links
	}
	if a.retryAfter > 0 {
		h["Retry-After"] = []string{strconv.Itoa(a.retryAfter)}
	}
	if a.challenge {
		h["Www-Authenticate"] = []string{`Bearer realm="ManagementJWT"`}
	}
	if a.status != http.StatusNoContent {
		h["Content-Length"] = []string{strconv.Itoa(len(a.body))}
	}
	w.WriteHeader(a.status)
	if len(a.body) > 0 {
		// A client that went away misses its answer; nothing is to be done here.
		_, _ = w.Write(a.body)
	}
}

// newRequestID returns a random UUID.
func newRequestID() string {
	var raw [16]byte
	binary.LittleEndian.PutUint64(raw[:], rand.Uint64())
	binary.LittleEndian.PutUint64(raw[8:], rand.Uint64())
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	return string(appendUUID(make([]byte, 0, idLength), raw))
}
