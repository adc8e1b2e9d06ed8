package sandbox

import (
	"fmt"
	"net/http"
	"time"
)

// effect is one fault as it happens to one call.
type effect struct {
	kind       Fault
	status     int           // of FaultAnswer and FaultAnswerStored
	retryAfter int           // seconds, of the same; 0: no header
	delay      time.Duration // of the stalls and FaultSlow
}

// on returns the effect for a call of op: there are no orphans but of
// preauthorizations.
func (e effect) on(op Op) effect {
	if e.kind == FaultOrphan500 && op != OpPreauthorize {
		return effect{}
	}
	return e
}

// faulty injects faults around a call.
func (s *Sandbox) faulty(op Op, do call) call {
	return func(r *request) answer {
		in := s.faults.Load()
		leave, err := in.enter(r.Context())
		if err != nil {
			return answer{} // the client has gone
		}
		defer leave()
		now := time.Now()
		if wait := in.quota.take(now); wait > 0 {
			r.fault = FaultQuota
			a := r.failure(http.StatusTooManyRequests, "too many requests")
			a.retryAfter = wait
			return a
		}
		burn(in.faults.Cost)
		e := in.draw(op, now)
		r.fault = e.kind
		return s.suffer(r, e, do)
	}
}

// suffer carries a call out, or not, and answers it as the effect says.
func (s *Sandbox) suffer(r *request, e effect, do call) answer {
	switch e.kind {
	case FaultFail:
		return r.internal()
	case FaultAnswer:
		return r.gateway(e)
	case FaultUnavailable:
		return r.failure(http.StatusServiceUnavailable, "service unavailable")
	case FaultResetBefore:
		return answer{}
	case FaultStallBefore:
		_ = pause(r.Context(), e.delay) // cut all the same when the client goes first
		return answer{}
	case FaultRevoke:
		s.Revoke()
	}
	a := do(r)
	switch e.kind {
	case FaultStored500:
		if a.status < http.StatusBadRequest { // else nothing came to be stored
			return r.internal()
		}
	case FaultAnswerStored:
		return r.gateway(e)
	case FaultResetAfter:
		return answer{}
	case FaultStallAfter:
		_ = pause(r.Context(), e.delay)
		return answer{}
	case FaultTruncate:
		a.truncate = true
	case FaultSlow:
		a.drip = e.delay
	}
	return a
}

// gateway is an answer that the service's proxy gives in its place: a page of
// HTML for 502 and 504, a line of text for 503, else an error body.
func (r *request) gateway(e effect) answer {
	text := http.StatusText(e.status)
	var a answer
	switch e.status {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		page := fmt.Sprintf("<html>\r\n<head><title>%[1]d %[2]s</title></head>\r\n<body>\r\n"+
			"<center><h1>%[1]d %[2]s</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n", e.status, text)
		a = answer{status: e.status, mime: "text/html", body: []byte(page)}
	case http.StatusServiceUnavailable:
		a = answer{status: e.status, mime: "text/plain; charset=utf-8", body: []byte("no available server\n")}
	case http.StatusTooManyRequests:
		a = r.failure(e.status, "too many requests")
	default:
		a = r.failure(e.status, text)
	}
	a.retryAfter = e.retryAfter
	return a
}
