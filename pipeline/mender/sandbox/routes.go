package sandbox

import (
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"time"
)

// request is a call on its way through the sandbox.
type request struct {
	*http.Request
	id    string // X-MEN-RequestID, the client's or ours
	body  []byte
	fault Fault
}

// call does a call's work.
type call func(*request) answer

// routes builds the handler.
func (s *Sandbox) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	const users, devauth, field = "/api/management/v1/useradm", "/api/management/v2/devauth", "/api/devices/"
	const inventoryV1, inventoryV2 = "/api/management/v1/inventory", "/api/management/v2/inventory"
	for pattern, do := range map[string]struct {
		op Op
		do call
	}{
		"POST " + devauth + "/devices":                       {OpPreauthorize, asJSON(s.preauthorize)},
		"GET " + devauth + "/devices":                        {OpList, s.list},
		"POST " + devauth + "/devices/search":                {OpSearch, asJSON(s.search)},
		"GET " + devauth + "/devices/count":                  {OpCount, s.count},
		"GET " + devauth + "/devices/{id}":                   {OpGet, s.get},
		"DELETE " + devauth + "/devices/{id}":                {OpDelete, s.delete},
		"DELETE " + devauth + "/devices/{id}/auth/{aid}":     {OpDeleteSet, s.deleteSet},
		"GET " + devauth + "/devices/{id}/auth/{aid}/status": {OpGetStatus, s.getStatus},
		"PUT " + devauth + "/devices/{id}/auth/{aid}/status": {OpPutStatus, asJSON(s.putStatus)},
		"GET " + devauth + "/limits/{name}":                  {OpLimit, s.limit},
		"GET " + users + "/users/me":                         {OpUser, s.me},
		"DELETE " + devauth + "/tokens/{id}":                 {OpDeleteToken, s.deleteToken},

		"GET " + inventoryV1 + "/groups":                  {OpInventoryGroup, s.groups},
		"GET " + inventoryV1 + "/devices/{id}":            {OpInventoryGet, s.inventoryOf},
		"PATCH " + inventoryV1 + "/devices/{id}/tags":     {OpInventoryTags, asJSON(s.patchTags)},
		"PUT " + inventoryV1 + "/devices/{id}/tags":       {OpInventoryTags, asJSON(s.putTags)},
		"PUT " + inventoryV1 + "/devices/{id}/group":      {OpInventoryGroup, asJSON(s.putGroup)},
		"PATCH " + inventoryV1 + "/groups/{name}/devices": {OpInventoryGroup, asJSON(s.patchGroup)},
		"POST " + inventoryV2 + "/filters/search":         {OpInventorySearch, asJSON(s.searchInventory)},
		"GET " + inventoryV2 + "/statistics":              {OpStatistics, s.statistics},
	} {
		if s.cfg.absent(do.op) {
			continue
		}
		mux.Handle(pattern, s.answering(do.op, s.faulty(do.op, s.managed(do.do))))
	}
	mux.Handle("POST "+users+"/auth/login", s.answering(OpLogin, s.login))
	mux.Handle("POST "+field+"v1/authentication/auth_requests", s.answering(OpAuthorize, asJSON(s.authorize)))
	for pattern, status := range map[string]int{
		"GET " + field + "v1/deployments/device/deployments/next":           http.StatusNoContent,
		"POST " + field + "v1/deployments/device/deployments/next":          http.StatusNoContent,
		"POST " + field + "v2/deployments/device/deployments/next":          http.StatusNoContent,
		"PUT " + field + "v1/deployments/device/deployments/{id}/{what}":    http.StatusNoContent,
		"PUT " + field + "v1/inventory/device/attributes":                   http.StatusOK,
		"PATCH " + field + "v1/inventory/device/attributes":                 http.StatusOK,
		"GET " + field + "v1/deviceconfig/configuration":                    http.StatusNotFound,
		"GET " + field + "v1/deployments/artifacts/{id}/update_control_map": http.StatusNotFound,
	} {
		mux.Handle(pattern, s.answering(OpDevice, s.fromDevice(status)))
	}
	page, err := s.people()
	if err != nil {
		return nil, err
	}
	mux.Handle("GET /{$}", page)
	mux.HandleFunc("GET /ca.crt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(s.CACert())
	})
	return mux, nil
}

// maxBody is the largest body that the service reads.
const maxBody = 1 << 20

// answering makes an HTTP handler of a call: it gives it an id, reads its body,
// counts and logs it.
func (s *Sandbox) answering(op Op, do call) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := &request{Request: hr, id: requestID(hr)}
		s.stats.begin(op)
		status := 0
		defer func() {
			s.stats.end(status, r.fault)
			s.record(r, op, status)
		}()
		now := time.Now()
		s.store.reap(now)
		a := s.read(w, r)
		if a.status == 0 {
			a = do(r)
		}
		status = a.status
		if status == 0 || !a.write(r.Context(), w, r.id) {
			// net/http offers no other way to end a connection of either protocol
			// without an answer, and recovers from this value in silence.
			panic(http.ErrAbortHandler) //nolint:forbidigo // the documented way to cut a connection
		}
	})
}

// record logs a call.
func (s *Sandbox) record(r *request, op Op, status int) {
	ctx := r.Context()
	if s.log.Enabled(ctx, slog.LevelDebug) {
		s.log.LogAttrs(ctx, slog.LevelDebug, "sandbox call", slog.String("call", string(op)),
			slog.Int("status", status), slog.String("fault", string(r.fault)), slog.String("request_id", r.id))
	}
}

// read reads the body; an answer with a status says why it could not.
func (s *Sandbox) read(w http.ResponseWriter, r *request) answer {
	if r.ContentLength == 0 || r.Method == http.MethodGet {
		return answer{}
	}
	if r.ContentLength > maxBody {
		return r.failure(http.StatusRequestEntityTooLarge, "request body too large")
	}
	body, err := readBody(http.MaxBytesReader(w, r.Body, maxBody), r.ContentLength)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return r.failure(http.StatusRequestEntityTooLarge, "request body too large")
	}
	if err != nil {
		return r.failure(http.StatusBadRequest, "cannot read the request body")
	}
	r.body = body
	return answer{}
}

// requestID takes over the client's X-MEN-RequestID, as the service does, or
// makes one.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Men-Requestid"]; len(ids) == 1 && ids[0] != "" && len(ids[0]) <= 64 {
		return ids[0]
	}
	return newRequestID()
}

// managed lets only calls with a management token through.
func (s *Sandbox) managed(do call) call {
	return func(r *request) answer {
		if err := s.tokens.checkManagement(r.Header.Get("Authorization"), time.Now()); err != nil {
			a := r.failure(http.StatusUnauthorized, err.Error())
			a.challenge = true
			return a
		}
		return do(r)
	}
}

// asJSON refuses bodies that don't say they are JSON.
func asJSON(do call) call {
	return func(r *request) answer {
		mimeType := r.Header.Get("Content-Type")
		if mimeType != "application/json" {
			if t, _, err := mime.ParseMediaType(mimeType); err != nil || t != "application/json" {
				return r.failure(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
			}
		}
		return do(r)
	}
}
