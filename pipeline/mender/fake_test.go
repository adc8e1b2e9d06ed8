package mender

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keymill/pipeline"
)

// fake is a Mender server in memory, as the reference describes it, that works
// under synctest: time passes only where it sleeps. It asserts misuse.
type fake struct {
	t testing.TB
	// fault is asked before and after each request is served; nil for none.
	// Its result replaces the answer.
	fault func(r *fakeRequest) (*http.Response, error)

	latency   time.Duration
	deleting  time.Duration // how long a DELETE of a device takes; 0: at once
	tokens    map[string]bool
	users     map[string]string
	limit     int
	setErrors bool // DELETE of an auth set answers 500

	noInventory bool          // a gateway answers in its place
	statistics  bool          // as newer servers have them
	lag         time.Duration // from the registration until the inventory knows a device
	roles       []string      // of the token's user; nil: a server without roles

	mu       sync.Mutex
	devices  map[string]*fakeDevice
	byIdent  map[string]string
	dying    map[string]*fakeDevice
	nextID   int
	requests []string // "METHOD path" of each request that came in
	inFlight int
	peak     int
	posts201 map[string]int // preauthorizations answered 201, by identity
}

type fakeDevice struct {
	ID              string          `json:"id"`
	IdentityData    json.RawMessage `json:"identity_data"`
	Status          string          `json:"status"`
	Decommissioning bool            `json:"decommissioning"`
	AuthSets        []fakeSet       `json:"auth_sets"`
	gone            time.Time
	born            time.Time
	group           string
	tags            map[string]string
}

type fakeSet struct {
	ID     string    `json:"id"`
	PubKey string    `json:"pubkey"`
	Status string    `json:"status"`
	TS     time.Time `json:"ts"`
}

// fakeRequest is what a fault looks at and changes.
type fakeRequest struct {
	*http.Request
	n      int  // the request's number, from 1
	after  bool // the server has done its work; false: not yet
	orphan bool // set before: the auth set's insert fails
	op     string
	answer *http.Response
}

const testToken = "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.secret-signature"

func newFake(t testing.TB) *fake {
	return &fake{
		t: t, tokens: map[string]bool{testToken: true}, users: map[string]string{},
		devices: map[string]*fakeDevice{}, byIdent: map[string]string{}, dying: map[string]*fakeDevice{}, posts201: map[string]int{}, limit: -1,
	}
}

func (f *fake) client(t testing.TB, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{URL: "https://mender.test/prefix", Token: TokenValue(testToken), Transport: f, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fake) RoundTrip(req *http.Request) (*http.Response, error) {
	op := f.operation(req)
	f.mu.Lock()
	f.requests = append(f.requests, req.Method+" "+strings.TrimPrefix(req.URL.Path, "/prefix"+apiPath))
	r := &fakeRequest{Request: req, n: len(f.requests), op: op}
	f.inFlight++
	f.peak = max(f.peak, f.inFlight)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.inFlight--
		f.mu.Unlock()
	}()
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body.Close()
	}
	if err := sleep(req.Context(), f.latency); err != nil {
		return nil, err
	}
	if f.fault != nil {
		if resp, err := f.fault(r); resp != nil || err != nil {
			return resp, err
		}
	}
	resp := f.serve(r, body)
	if f.fault != nil {
		r.after, r.answer = true, resp
		if resp, err := f.fault(r); resp != nil || err != nil {
			return resp, err
		}
	}
	return resp, nil
}

func (f *fake) operation(req *http.Request) string {
	path := strings.TrimPrefix(req.URL.Path, "/prefix"+apiPath)
	switch {
	case strings.HasSuffix(path, "/filters/search"):
		return "inventory-search"
	case strings.HasSuffix(path, "/tags"):
		return "inventory-tags"
	case strings.Contains(path, "/inventory/groups/"):
		return "inventory-group"
	case path == "/devices/search":
		return "get"
	case req.Method == http.MethodPost:
		return "preauthorize"
	case req.Method == http.MethodDelete:
		return "delete"
	case path == "/devices":
		return "list"
	}
	return "get"
}

func (f *fake) serve(r *fakeRequest, body []byte) *http.Response {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bury()
	if r.URL.Path == "/prefix"+loginPath {
		return f.login(r)
	}
	if !f.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] {
		return failure(http.StatusUnauthorized, "unauthorized")
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/prefix"+apiPath)
	if rest, other := strings.CutPrefix(r.URL.Path, "/prefix/api/management/"); other && !ok {
		return f.beside(r, rest, body)
	}
	if !ok {
		f.t.Errorf("request outside of the API: %s", r.URL)
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case r.Method == http.MethodPost && path == "/devices":
		return f.preauthorize(r, body)
	case r.Method == http.MethodPost && path == "/devices/search":
		return f.search(r, body)
	case path == "/devices/count":
		return f.count(r.URL.Query().Get("status"))
	case path == "/limits/max_micro_devices":
		return failure(http.StatusBadRequest, "unsupported limit")
	case path == "/limits/max_devices":
		return reply(http.StatusOK, fmt.Sprintf(`{"limit":%d}`, f.limit))
	case path == "/devices":
		return f.list(r)
	case r.Method == http.MethodGet && len(parts) == 2:
		if d := f.devices[parts[1]]; d != nil {
			return replyJSON(http.StatusOK, d)
		}
		return failure(http.StatusNotFound, "device not found")
	case r.Method == http.MethodDelete && len(parts) == 2:
		return f.remove(parts[1])
	case r.Method == http.MethodDelete && len(parts) == 4:
		return f.removeSet(parts[1], parts[3])
	}
	f.t.Errorf("unknown request %s %s", r.Method, path)
	return failure(http.StatusNotFound, "not found")
}

func (f *fake) login(r *fakeRequest) *http.Response {
	user, password, _ := r.BasicAuth()
	if f.users[user] != password || password == "" {
		return failure(http.StatusUnauthorized, "unauthorized")
	}
	token := fmt.Sprintf("login-%d.%d.x", r.n, r.n)
	f.tokens[token] = true
	return reply(http.StatusOK, token)
}

func (f *fake) preauthorize(r *fakeRequest, body []byte) *http.Response {
	var req struct {
		IdentityData map[string]string `json:"identity_data"`
		PubKey       string            `json:"pubkey"`
		Force        bool              `json:"force"`
	}
	if r.Header.Get("Content-Type") != "application/json" {
		return failure(http.StatusUnsupportedMediaType, "unsupported media type")
	}
	if err := json.Unmarshal(body, &req); err != nil || len(req.IdentityData) == 0 || readPublicKey(req.PubKey) == nil {
		return failure(http.StatusBadRequest, "failed to decode preauth request")
	}
	ident, _ := json.Marshal(req.IdentityData)
	if d := f.devices[f.byIdent[string(ident)]]; d != nil {
		if !req.Force {
			shown := *d
			shown.AuthSets = nil
			return replyJSON(http.StatusConflict, shown)
		}
		return f.force(d, req.PubKey)
	}
	d := &fakeDevice{ID: f.id("dev"), IdentityData: ident, Status: StatusPreauthorized}
	f.devices[d.ID], f.byIdent[string(ident)] = d, d.ID
	if r.orphan {
		return failure(http.StatusInternalServerError, "internal error")
	}
	d.AuthSets = []fakeSet{{ID: f.id("set"), PubKey: req.PubKey, Status: StatusPreauthorized, TS: time.Now()}}
	f.posts201[string(ident)]++
	resp := reply(http.StatusCreated, "")
	resp.Header.Set("Location", "devices/"+d.ID)
	return resp
}

func (f *fake) force(d *fakeDevice, key string) *http.Response {
	resp := reply(http.StatusCreated, "")
	resp.Header.Set("Location", "devices/"+f.id("lie"))
	if d.Decommissioning {
		return resp
	}
	for i := range d.AuthSets {
		if d.AuthSets[i].PubKey == key {
			d.AuthSets[i].Status = StatusPreauthorized
			return resp
		}
	}
	if len(d.AuthSets) > 0 {
		f.t.Errorf("force gave device %s a second key", d.ID)
	}
	d.AuthSets = append(d.AuthSets, fakeSet{ID: f.id("set"), PubKey: key, Status: StatusPreauthorized, TS: time.Now()})
	return resp
}

// beside serves what isn't device authentication; path begins after
// /api/management/.
func (f *fake) beside(r *fakeRequest, path string, body []byte) *http.Response {
	inventory, ok := strings.CutPrefix(path[min(3, len(path)):], "inventory/")
	parts := strings.Split(inventory, "/")
	switch {
	case path == "v1/useradm/users/me":
		return replyJSON(http.StatusOK, map[string]any{"id": "u", "roles": f.roles})
	case !ok || f.noInventory, inventory == "statistics" && !f.statistics:
		return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("404 page not found")), ContentLength: -1}
	case inventory == "statistics":
		return reply(http.StatusOK, `{"devices_by_status":{"accepted":{"standard":0,"micro":0,"system":0}}}`)
	case inventory == "groups":
		return reply(http.StatusOK, `[]`)
	case inventory == "filters/search":
		return f.searchInventory(body)
	case r.Method == http.MethodPatch && parts[0] == "devices" && parts[2] == "tags":
		var tags []struct{ Name, Value string }
		if json.Unmarshal(body, &tags) != nil {
			return failure(http.StatusBadRequest, "bad tags")
		}
		if d := f.indexed(parts[1]); d != nil {
			for _, t := range tags {
				d.tags[t.Name] = t.Value
			}
		}
		return reply(http.StatusOK, "")
	case r.Method == http.MethodPatch && parts[0] == "groups":
		var ids []string
		if json.Unmarshal(body, &ids) != nil || len(ids) == 0 {
			return failure(http.StatusBadRequest, "bad ids")
		}
		n := 0
		for _, id := range ids {
			if d := f.indexed(id); d != nil {
				d.group = parts[1]
				n++
			}
		}
		return reply(http.StatusOK, fmt.Sprintf(`{"updated_count":%[1]d,"matched_count":%[1]d}`, n))
	}
	f.t.Errorf("unknown request %s %s", r.Method, path) // PUT would wipe the tags of others
	return failure(http.StatusNotFound, "not found")
}

// indexed returns a device that the inventory knows, nil if there is none.
func (f *fake) indexed(id string) *fakeDevice {
	d := f.devices[id]
	if d == nil || time.Since(d.born) < f.lag {
		return nil
	}
	if d.tags == nil {
		d.tags = map[string]string{}
	}
	return d
}

func (f *fake) searchInventory(body []byte) *http.Response {
	var want struct {
		Page    int      `json:"page"`
		PerPage int      `json:"per_page"`
		IDs     []string `json:"device_ids"`
	}
	if err := json.Unmarshal(body, &want); err != nil || want.PerPage != 500 || want.Page != 1 || len(want.IDs) == 0 || len(want.IDs) > 500 {
		f.t.Errorf("a search for %d devices (%v)", len(want.IDs), err)
		return failure(http.StatusBadRequest, "bad search")
	}
	type attribute map[string]any
	shown := []map[string]any{}
	for _, id := range want.IDs {
		d := f.indexed(id)
		if d == nil {
			continue
		}
		attrs := []attribute{{"name": "count", "value": 1.5, "scope": "inventory"}, {"name": "group", "value": "mine", "scope": "tags"}}
		if d.group != "" {
			attrs = append(attrs, attribute{"name": "group", "value": d.group, "scope": "system"})
		}
		for name, value := range d.tags {
			attrs = append(attrs, attribute{"name": name, "value": value, "scope": "tags"})
		}
		shown = append(shown, map[string]any{"id": id, "attributes": attrs})
	}
	return replyJSON(http.StatusOK, shown)
}

func (f *fake) remove(id string) *http.Response {
	d := f.devices[id]
	if d == nil {
		return reply(http.StatusNotFound, "")
	}
	d.Decommissioning, d.gone = true, time.Now().Add(f.deleting)
	f.dying[id] = d
	f.bury()
	return reply(http.StatusNoContent, "")
}

func (f *fake) removeSet(id, set string) *http.Response {
	d := f.devices[id]
	if d == nil {
		return reply(http.StatusNotFound, "")
	}
	for i, s := range d.AuthSets {
		if s.ID != set {
			continue
		}
		if f.setErrors {
			return failure(http.StatusInternalServerError, "internal error")
		}
		d.AuthSets = append(d.AuthSets[:i:i], d.AuthSets[i+1:]...)
		if len(d.AuthSets) == 0 {
			d.Decommissioning, d.gone = true, time.Now()
			f.dying[id] = d
		}
		f.bury()
		return reply(http.StatusNoContent, "")
	}
	return reply(http.StatusNotFound, "")
}

// bury removes the devices whose deletion has finished.
func (f *fake) bury() {
	for id, d := range f.dying {
		if !time.Now().Before(d.gone) {
			delete(f.dying, id)
			delete(f.devices, id)
			delete(f.byIdent, string(d.IdentityData))
		}
	}
}

func (f *fake) count(status string) *http.Response {
	n := 0
	for _, d := range f.devices {
		if status == "" || d.Status == status {
			n++
		}
	}
	return reply(http.StatusOK, fmt.Sprintf(`{"count":%d}`, n))
}

func (f *fake) search(r *fakeRequest, body []byte) *http.Response {
	var want struct {
		ID []string `json:"id"`
	}
	if err := json.Unmarshal(body, &want); err != nil || len(want.ID) == 0 || len(want.ID) > 500 || r.URL.Query().Get("per_page") != "500" {
		f.t.Errorf("a search for %d devices, %s a page (%v): it would be a listing", len(want.ID), r.URL.Query().Get("per_page"), err)
		return failure(http.StatusBadRequest, "bad search")
	}
	shown := []*fakeDevice{}
	for _, id := range want.ID {
		if d := f.devices[id]; d != nil {
			shown = append(shown, d)
		}
	}
	return replyJSON(http.StatusOK, shown)
}

func (f *fake) list(r *fakeRequest) *http.Response {
	q := r.URL.Query()
	page, _ := strconv.Atoi(cmp.Or(q.Get("page"), "1"))
	per, _ := strconv.Atoi(q.Get("per_page"))
	if page < 1 || per < 1 || per > 500 {
		return failure(http.StatusBadRequest, "bad page")
	}
	shown := []*fakeDevice{}
	matched := 0
	for i := 1; i <= f.nextID; i++ {
		d := f.devices[fmt.Sprintf("dev-%d", i)]
		if d == nil || (q.Get("status") != "" && d.Status != q.Get("status")) {
			continue
		}
		if matched++; matched > (page-1)*per && matched <= page*per {
			shown = append(shown, d)
		}
	}
	resp := replyJSON(http.StatusOK, shown)
	link := `<http://internal:8080/devices?page=1&per_page=500>; rel="first"`
	if matched > page*per {
		link += fmt.Sprintf(`, <http://internal:8080/devices?per_page=%d&page=%d>; rel="next"`, per, page+1)
	}
	resp.Header.Set("Link", link)
	return resp
}

func (f *fake) id(kind string) string {
	f.nextID++
	return fmt.Sprintf("%s-%d", kind, f.nextID)
}

// put stores a device as earlier times have left it.
func (f *fake) put(id pipeline.Identity, status string, sets ...fakeSet) *fakeDevice {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := &fakeDevice{ID: f.id("dev"), IdentityData: id.JSON(), Status: status, AuthSets: sets}
	for i := range d.AuthSets {
		d.AuthSets[i].ID = f.id("set")
	}
	f.devices[d.ID], f.byIdent[string(d.IdentityData)] = d, d.ID
	return d
}

// check fails unless the identity has exactly one auth set, ours, alive.
func (f *fake) check(id pipeline.Identity, spki []byte) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[f.byIdent[string(id.JSON())]]
	switch {
	case d == nil:
		f.t.Errorf("%s: not on the server", id)
	case d.Decommissioning || len(d.AuthSets) != 1:
		f.t.Errorf("%s: %d auth sets, decommissioning %v", id, len(d.AuthSets), d.Decommissioning)
	case !bytes.Equal(readPublicKey(d.AuthSets[0].PubKey), spki):
		f.t.Errorf("%s: another key", id)
	case d.AuthSets[0].Status != StatusPreauthorized && d.AuthSets[0].Status != StatusAccepted:
		f.t.Errorf("%s: status %s", id, d.AuthSets[0].Status)
	}
}

func (f *fake) count1(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func reply(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ContentLength: int64(len(body)),
		Header: http.Header{"X-Men-Requestid": {"req-1"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body:   io.NopCloser(strings.NewReader(body)),
	}
}

func replyJSON(status int, v any) *http.Response {
	body, err := json.Marshal(v)
	if err != nil {
		return failure(http.StatusInternalServerError, err.Error())
	}
	return reply(status, string(body))
}

func failure(status int, text string) *http.Response {
	return replyJSON(status, map[string]string{"error": text, "request_id": "req-1"})
}

// truncated is an answer whose connection breaks in the middle of the body.
func truncated(resp *http.Response) *http.Response {
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), brokenReader{}))
	resp.ContentLength = -1
	return resp
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

var errReset = errors.New("connection reset by peer")

// newKey returns a public key as SPKI DER and as PEM.
func newKey(t testing.TB) ([]byte, string) {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func identity(n int) pipeline.Identity {
	return pipeline.Identity{{Name: "mac", Value: fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8&255, n&255)}}
}

func each[T any](items []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}
}
