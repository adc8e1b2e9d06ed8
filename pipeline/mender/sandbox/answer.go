package sandbox

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer is what a call is answered with. Handlers return it instead of writing
// it, so that a fault can come between the work and the answer.
type answer struct {
	status     int
	mime       string // of body
	body       []byte
	location   string
	links      []string
	etag       string
	total      string // X-Total-Count
	retryAfter int    // seconds; 0: no header
	challenge  bool
	truncate   bool          // end the body too soon
	drip       time.Duration // spread the body over that time
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

// write sends the answer. It returns false when the connection is to be cut
// now, in the middle of the body.
func (a *answer) write(ctx context.Context, w http.ResponseWriter, id string) bool {
	if a.truncate || a.drip > 0 {
		a.pad()
	}
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
	if a.etag != "" {
		h["Etag"] = []string{a.etag}
	}
	if a.total != "" {
		h["X-Total-Count"] = []string{a.total}
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
	// A client that went away misses its answer; nothing is to be done here.
	switch {
	case a.truncate:
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = http.NewResponseController(w).Flush()
		return false
	case a.drip > 0:
		return a.dripInto(ctx, w)
	case len(a.body) > 0:
		_, _ = w.Write(a.body)
	}
	return true
}

// pad gives an answer without a body one that can be cut or slowed: JSON's
// whitespace.
func (a *answer) pad() {
	if len(a.body) > 0 {
		return
	}
	a.body = []byte(strings.Repeat(" ", drops))
	if a.status == http.StatusNoContent {
		a.status = http.StatusOK
	}
}

// drops is in how many parts a slow body comes.
const drops = 8

// dripInto sends the body in parts over the answer's time.
func (a *answer) dripInto(ctx context.Context, w http.ResponseWriter) bool {
	flush := http.NewResponseController(w)
	for i := range drops {
		part := a.body[len(a.body)*i/drops : len(a.body)*(i+1)/drops]
		if _, err := w.Write(part); err != nil || flush.Flush() != nil {
			return false
		}
		if pause(ctx, a.drip/drops) != nil {
			return false
		}
	}
	return true
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
