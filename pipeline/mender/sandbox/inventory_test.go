package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// inventoryCall calls the inventory; path begins after /api/management/.
func (s *server) inventoryCall(t *testing.T, method, path, body string, edit ...func(*http.Request)) reply {
	t.Helper()
	r, err := s.try(t.Context(), method, "/api/management/"+path, body, edit...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInventory(t *testing.T) { overVersions(t, testInventory) }

func testInventory(t *testing.T, v Version) {
	dir := t.TempDir()
	srv := start(t, Config{Version: v, Dir: dir, InventoryLag: time.Hour})
	_, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
	d := srv.device(t, id)
	device, tags := "v1/inventory/devices/"+d.ID, "v1/inventory/devices/"+d.ID+"/tags"
	// Before the device is there: 404, but for the tags, which get lost in silence.
	srv.inventoryCall(t, "GET", device, "").want(t, 404).wantError(t)
	srv.inventoryCall(t, "PUT", device+"/group", `{"group":"line-3"}`).want(t, 404).wantError(t)
	srv.inventoryCall(t, "PATCH", tags, `[{"name":"name","value":"unit 7"}]`).want(t, 200)
	if r := srv.inventoryCall(t, "PATCH", "v1/inventory/groups/line-3/devices", `["`+d.ID+`"]`).want(t, 200); r.body != `{"updated_count":0,"matched_count":0}` {
		t.Errorf("nobody was moved, but the answer is %s", r.body)
	}
	srv.cfg.InventoryLag = 0 // no request is under way
	srv.inventoryCall(t, "GET", device, "").want(t, 200)
	if d := srv.device(t, id); len(d.Tags) != 0 {
		t.Errorf("the tags are %v", d.Tags)
	}

	srv.inventoryCall(t, "PATCH", tags, `[{"name":"other","value":["x",1]},{"name":"name","value":"unit 7","description":"d"}]`).want(t, 200)
	etag := srv.inventoryCall(t, "GET", device, "").Header.Get("ETag")
	srv.inventoryCall(t, "PATCH", tags, `[{"name":"batch","value":"B1"}]`, header("If-Match", etag)).want(t, 200)
	srv.inventoryCall(t, "PATCH", tags, `[{"name":"batch","value":"B2"}]`, header("If-Match", etag)).want(t, 412).wantError(t)
	srv.inventoryCall(t, "PATCH", "v1/inventory/groups/line-3/devices", `["`+d.ID+`","unknown"]`).want(t, 200)
	want := Device{Group: "line-3", Tags: map[string]string{"other": `["x",1]`, "name": "unit 7", "batch": "B1"}}
	check := func(s *Sandbox) {
		t.Helper()
		got, _ := s.Find([]byte(id))
		if diff := cmp.Diff(want, Device{Group: got.Group, Tags: got.Tags}); diff != "" {
			t.Error(diff)
		}
	}
	check(srv.Sandbox)
	r := srv.inventoryCall(t, "POST", "v2/inventory/filters/search", `{"per_page":500,"device_ids":["`+d.ID+`","unknown"]}`).want(t, 200)
	var list []struct {
		ID         string `json:"id"`
		Attributes []struct {
			Name, Scope string
			Value       json.RawMessage
		} `json:"attributes"`
	}
	r.json(t, &list)
	if len(list) != 1 || list[0].ID != d.ID || r.Header.Get("X-Total-Count") != "1" || !strings.Contains(r.body, `"value":"line-3","scope":"system"`) {
		t.Errorf("the search finds %s", r.body)
	}
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, Config{Version: v, Dir: dir})
	check(again.Sandbox)

	again.inventoryCall(t, "PUT", tags, `[{"name":"mine","value":"only"}]`).want(t, 200)
	want.Tags = map[string]string{"mine": "only"}
	check(again.Sandbox)
	many := make([]string, maxTags+1)
	for i := range many {
		many[i] = fmt.Sprintf(`{"name":"t%d","value":"x"}`, i)
	}
	for _, body := range []string{"[" + strings.Join(many, ",") + "]", `[{"value":"x"}]`, `[{"name":"x","value":true}]`, `[{"name":"x"}]`, `{}`} {
		again.inventoryCall(t, "PATCH", tags, body).want(t, 400).wantError(t)
	}
	again.inventoryCall(t, "PUT", device+"/group", `{"group":"line 3"}`).want(t, 400).wantError(t)
	again.inventoryCall(t, "PATCH", "v1/inventory/groups/line-3/devices", `[]`).want(t, 400).wantError(t)
	again.inventoryCall(t, "GET", "v2/inventory/statistics", "").want(t, map[Version]int{Main: 200, Mender41: 404}[v])
	again.do(t, "DELETE", "/devices/"+d.ID, "").want(t, 204)
	again.inventoryCall(t, "GET", device, "").want(t, 404)
}

func TestNoInventory(t *testing.T) {
	srv := start(t, Config{NoInventory: true})
	r := srv.inventoryCall(t, "PATCH", "v1/inventory/devices/x/tags", `[]`).want(t, 404)
	if strings.Contains(r.body, "request_id") {
		t.Errorf("a gateway said %s", r.body)
	}
}

// The webhook tells of each status, signed; on main with the auth set.
func TestWebhook(t *testing.T) { overVersions(t, testWebhook) }

func testWebhook(t *testing.T, v Version) {
	type event struct {
		happening
		signature string
	}
	events := make(chan event, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := event{signature: r.Header.Get("X-Men-Signature")}
		if json.NewDecoder(r.Body).Decode(&e.happening) != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		events <- e
	}))
	defer receiver.Close()
	srv := start(t, Config{Version: v, Webhook: Webhook{URL: receiver.URL, Secret: []byte("s3cret")}})
	private, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
	first := <-events
	if first.Type != eventStatusChanged || first.Data.Status != "preauthorized" || len(first.signature) != 64 {
		t.Errorf("%+v", first)
	}
	if withSet := len(first.Data.AuthSets) == 1; withSet != (v == Main) {
		t.Errorf("%d auth sets", len(first.Data.AuthSets))
	}
	srv.boot(t, private, public, id).want(t, 200)
	types := map[string]string{}
	for range 2 {
		e := <-events
		types[e.Type] = e.Data.Status
	}
	if diff := cmp.Diff(map[string]string{eventProvisioned: "accepted", eventStatusChanged: "accepted"}, types); diff != "" {
		t.Error(diff)
	}
	srv.do(t, "DELETE", "/devices/"+first.Data.ID, "").want(t, 204)
	if e := <-events; e.Type != eventDecommissioned || e.Data.ID != first.Data.ID {
		t.Errorf("%+v", e)
	}
}

// A call costs CPU time of the process, not only time.
func TestCost(t *testing.T) {
	srv := start(t, Config{Faults: Faults{Cost: 20 * time.Millisecond}})
	before := processTime(t)
	for range 5 {
		srv.do(t, "GET", "/devices/count", "").want(t, 200)
	}
	if used := processTime(t) - before; used < 100*time.Millisecond {
		t.Errorf("5 calls at 20 ms used %s", used)
	}
	srv.SetFaults(Faults{Plan: Plan{{Ops: []Op{OpCount}, Fault: FaultUnavailable, Calls: 1}}})
	srv.do(t, "GET", "/devices/count", "").want(t, http.StatusServiceUnavailable).wantError(t)
	srv.do(t, "GET", "/devices/count", "").want(t, 200)
}
