package sandbox

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"
)

const authRequests = "/api/devices/v1/authentication/auth_requests"

// boot is a device's auth request, signed with its private key (PKCS#8 PEM).
func (s *server) boot(t testing.TB, private, public []byte, idData string, edit ...func(*http.Request)) reply {
	t.Helper()
	body, err := json.Marshal(map[string]string{
		"id_data": idData, "pubkey": string(public), "tenant_token": "", "tier": "standard",
	})
	if err != nil {
		t.Fatal(err)
	}
	edit = append([]func(*http.Request){func(r *http.Request) {
		r.Header.Del("Authorization")
		r.Header.Set("X-MEN-Signature", sign(t, private, body))
	}}, edit...)
	r, err := s.try(t.Context(), "POST", authRequests, string(body), edit...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sign(t testing.TB, private, body []byte) string {
	t.Helper()
	block, _ := pem.Decode(private)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(crypto.Signer)
	message, hash := body, crypto.Hash(0)
	if _, ok := key.(ed25519.PrivateKey); !ok {
		sum := sha256.Sum256(body)
		message, hash = sum[:], crypto.SHA256
	}
	signature, err := key.Sign(rand.Reader, message, hash)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

func TestDeviceAuthorizes(t *testing.T) { overVersions(t, testDeviceAuthorizes) }

func testDeviceAuthorizes(t *testing.T, v Version) {
	for _, algorithm := range []string{"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072"} {
		t.Run(algorithm, func(t *testing.T) {
			srv := start(t, Config{Version: v})
			private, public := newKey(t, algorithm)
			srv.do(t, "POST", "/devices", preauth(`{"mac":"aa","n":"1"}`, public, false)).want(t, http.StatusCreated)
			var token string
			for range 2 { // again after it was accepted
				r := srv.boot(t, private, public, "{ \"n\":\"1\",\n\"mac\":\"aa\" }").want(t, http.StatusOK)
				if r.Header.Get("Content-Type") != "application/jwt" {
					t.Errorf("the token's Content-Type is %q", r.Header.Get("Content-Type"))
				}
				token = r.body
			}
			if d := srv.device(t, `{"mac":"aa","n":"1"}`).String(); d != `{"mac":"aa","n":"1"} accepted [accepted]` {
				t.Errorf("the device is %s", d)
			}
			srv.token = token
			r, err := srv.try(t.Context(), "GET", "/api/devices/v1/deployments/device/deployments/next?artifact_name=x", "")
			if err != nil {
				t.Fatal(err)
			}
			r.want(t, http.StatusNoContent)
			if r, err = srv.try(t.Context(), "PATCH", "/api/devices/v1/inventory/device/attributes", "[]"); err != nil {
				t.Fatal(err)
			}
			r.want(t, http.StatusOK)
		})
	}
}

// TestDeviceMissesItsMatch has identities that look the same to people.
func TestDeviceMissesItsMatch(t *testing.T) { overVersions(t, testDeviceMissesItsMatch) }

func testDeviceMissesItsMatch(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	private, public := newKey(t, "ed25519")
	const id = `{"mac":"02:00:00:00:aa:01","n":"1"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusCreated)
	for name, sent := range map[string]string{
		"MAC in upper case":     `{"mac":"02:00:00:00:AA:01","n":"1"}`,
		"MAC with dashes":       `{"mac":"02-00-00-00-aa-01","n":"1"}`,
		"trailing space":        `{"mac":"02:00:00:00:aa:01 ","n":"1"}`,
		"attribute name's case": `{"MAC":"02:00:00:00:aa:01","n":"1"}`,
		"number for a string":   `{"mac":"02:00:00:00:aa:01","n":1}`,
		"missing attribute":     `{"mac":"02:00:00:00:aa:01"}`,
		"extra attribute":       `{"mac":"02:00:00:00:aa:01","n":"1","x":"y"}`,
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				srv.boot(t, private, public, sent).want(t, http.StatusUnauthorized).wantError(t)
			}
			if d := srv.device(t, sent); d.Status != "pending" || len(d.AuthSets) != 1 {
				t.Errorf("the server took down %s", d)
			}
			if d := srv.device(t, id); d.Status != "preauthorized" {
				t.Errorf("the preauthorized device became %s", d)
			}
		})
	}
}

func TestDeviceRefused(t *testing.T) { overVersions(t, testDeviceRefused) }

func testDeviceRefused(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	private, public := newKey(t, "ecdsa-p256")
	otherPrivate, otherPublic := newKey(t, "ecdsa-p256")
	edPrivate, _ := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusCreated)
	for name, c := range map[string]struct {
		private, public []byte
		id              string
		edit            func(*http.Request)
		status          int
	}{
		"signed with another key":     {otherPrivate, public, id, nil, 401},
		"signed with another kind":    {edPrivate, public, id, nil, 401},
		"no signature":                {private, public, id, func(r *http.Request) { r.Header.Del("X-MEN-Signature") }, 400},
		"signature not base64":        {private, public, id, header("X-MEN-Signature", "!"), 401},
		"wrong content type":          {private, public, id, header("Content-Type", "text/plain"), 415},
		"no identity":                 {private, public, "", nil, 400},
		"identity not an object":      {private, public, `["mac"]`, nil, 400},
		"identity null":               {private, public, `null`, nil, 400},
		"identity not JSON":           {private, public, `mac=aa`, nil, 400},
		"no key":                      {private, nil, id, nil, 400},
		"key not PEM":                 {private, []byte("key"), id, nil, 400},
		"another key, rightly signed": {otherPrivate, otherPublic, id, nil, 401},
	} {
		t.Run(name, func(t *testing.T) {
			edit := c.edit
			if edit == nil {
				edit = func(*http.Request) {}
			}
			srv.boot(t, c.private, c.public, c.id, edit).want(t, c.status).wantError(t)
		})
	}
	want := id + " preauthorized [preauthorized] [pending]"
	if v == Mender41 { // it got a key accepted that signed nothing
		want = id + " accepted [accepted] [pending]"
	}
	if d := srv.device(t, id).String(); d != want {
		t.Errorf("in the end the device is %s", d)
	}
	srv.token = srv.tokens.device("none", "none", time.Now())
	r, err := srv.try(t.Context(), "GET", "/api/devices/v1/deployments/device/deployments/next", "")
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, http.StatusUnauthorized).wantError(t)
}

// TestDeviceOddities has what becomes of devices after the server's half-done work.
func TestDeviceOddities(t *testing.T) { overVersions(t, testDeviceOddities) }

func testDeviceOddities(t *testing.T, v Version) {
	private, public := newKey(t, "ed25519")
	otherPrivate, other := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	next := func(srv *server, token string) int {
		srv.token = token
		r, err := srv.try(t.Context(), "GET", "/api/devices/v1/deployments/device/deployments/next", "")
		if err != nil {
			t.Fatal(err)
		}
		srv.token = srv.Token()
		return r.StatusCode
	}
	t.Run("an orphan's right key ends up pending", func(t *testing.T) {
		srv := start(t, Config{Version: v, Faults: Faults{Orphan500: 1}})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 500)
		srv.boot(t, private, public, id).want(t, 401)
		want := map[Version]string{Main: id + " preauthorized [pending]", Mender41: id + " pending [pending]"}[v]
		if d := srv.device(t, id).String(); d != want {
			t.Errorf("it is %s", d)
		}
	})
	t.Run("max_devices is met in the field", func(t *testing.T) {
		srv := start(t, Config{Version: v, MaxDevices: 1})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
		srv.do(t, "POST", "/devices", preauth(`{"mac":"bb"}`, other, false)).want(t, 201)
		srv.boot(t, private, public, id).want(t, 200)
		srv.boot(t, otherPrivate, other, `{"mac":"bb"}`).want(t, 401)
		if d := srv.device(t, `{"mac":"bb"}`); d.Status != "preauthorized" {
			t.Errorf("the surplus device is %s", d)
		}
	})
	t.Run("force takes an accepted device's token away", func(t *testing.T) {
		srv := start(t, Config{Version: v})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
		token := srv.boot(t, private, public, id).want(t, 200).body
		if code := next(srv, token); code != 204 {
			t.Errorf("the token gets %d", code)
		}
		srv.do(t, "POST", "/devices", preauth(id, public, true)).want(t, 201)
		if d := srv.device(t, id).String(); d != id+" accepted [preauthorized]" {
			t.Errorf("after force it is %s", d)
		}
		if code := next(srv, token); code != 401 {
			t.Errorf("after force the token gets %d", code)
		}
		token = srv.boot(t, private, public, id).want(t, 200).body
		if code := next(srv, token); code != 204 {
			t.Errorf("the new token gets %d", code)
		}
	})
	t.Run("with a second key both stay valid", func(t *testing.T) {
		srv := start(t, Config{Version: v})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
		srv.do(t, "POST", "/devices", preauth(id, other, true)).want(t, 201)
		srv.boot(t, otherPrivate, other, id).want(t, 200)
		srv.boot(t, private, public, id).want(t, 200)
		if d := srv.device(t, id).String(); d != id+" accepted [accepted] [rejected]" {
			t.Errorf("the old key took over: %s", d)
		}
	})
	t.Run("two preauthorized sets break a third key's request", func(t *testing.T) {
		srv := start(t, Config{Version: v})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
		srv.do(t, "POST", "/devices", preauth(id, other, true)).want(t, 201)
		thirdPrivate, third := newKey(t, "ed25519")
		srv.boot(t, thirdPrivate, third, id).want(t, map[Version]int{Main: 401, Mender41: 500}[v])
	})
	t.Run("a dangling auth set", func(t *testing.T) {
		srv := start(t, Config{Version: Mender41})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
		srv.do(t, "POST", "/devices", preauth(id, other, true)).want(t, 201)
		d := srv.device(t, id)
		srv.do(t, "DELETE", "/devices/"+d.ID+"/auth/"+d.AuthSets[0].ID, "").want(t, 204)
		srv.boot(t, otherPrivate, other, id).want(t, 500)
	})
	t.Run("decommissioning", func(t *testing.T) {
		srv := start(t, Config{Version: v, Decommission: time.Hour})
		srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
		token := srv.boot(t, private, public, id).want(t, 200).body
		srv.do(t, "DELETE", "/devices/"+srv.device(t, id).ID, "").want(t, 204)
		srv.boot(t, private, public, id).want(t, 401)
		if code := next(srv, token); code != 401 {
			t.Errorf("the token gets %d", code)
		}
	})
}

func TestPutStatus(t *testing.T) { overVersions(t, testPutStatus) }

func testPutStatus(t *testing.T, v Version) {
	srv := start(t, Config{Version: v, MaxDevices: 1})
	private, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(`{"mac":"bb"}`, public, false)).want(t, 201)
	srv.boot(t, private, public, id).want(t, 401)
	path := func(id string) string {
		d := srv.device(t, id)
		return "/devices/" + d.ID + "/auth/" + d.AuthSets[0].ID + "/status"
	}
	for i, c := range []struct {
		path, to string
		status   int
		device   string // afterwards
	}{
		{path(id), "accepted", 204, "accepted"},
		{path(id), "accepted", 204, "accepted"},
		{path(id), "rejected", 204, "rejected"},
		{path(id), "rejected", map[Version]int{Main: 204, Mender41: 400}[v], "rejected"},
		{path(id), "pending", 204, "pending"},
		{path(id), "rejected", 204, "rejected"},
		{path(id), "accepted", 204, "accepted"},
		{path(id), "preauthorized", 400, "accepted"},
		{path(id), "noauth", 400, "accepted"},
		{path(id), "", 400, "accepted"},
		{path(id) + "x", "accepted", 404, "accepted"},
		{path(`{"mac":"bb"}`), "accepted", 400, "accepted"}, // a preauthorized set can't be moved
		{path(`{"mac":"bb"}`), "rejected", 400, "accepted"},
		{path(`{"mac":"bb"}`), "pending", 400, "accepted"},
		{"/devices/x/auth/y/status", "accepted", 404, "accepted"},
	} {
		srv.do(t, "PUT", c.path, `{"status":"`+c.to+`"}`).want(t, c.status)
		if d := srv.device(t, id); d.Status != c.device {
			t.Errorf("step %d leaves %s, want %s", i, d, c.device)
		}
	}
	if r := srv.do(t, "GET", path(id), "").want(t, 200); r.body != `{"status":"accepted"}` {
		t.Errorf("the status is %s", r.body)
	}
	// Another accepted device would be one too many.
	otherPrivate, other := newKey(t, "ed25519")
	srv.boot(t, otherPrivate, other, `{"mac":"cc"}`).want(t, 401)
	srv.do(t, "PUT", path(`{"mac":"cc"}`), `{"status":"accepted"}`).want(t, 422).wantError(t)
	srv.do(t, "PUT", path(id), `{"status":`).want(t, 400).wantError(t)
	srv.do(t, "PUT", path(id), `{}`, header("Content-Type", "text/plain")).want(t, 415)

	// Deleting a set that is not preauthorized leaves the device.
	srv.do(t, "DELETE", path(id)[:len(path(id))-len("/status")], "").want(t, 204)
	if d := srv.device(t, id).String(); d != id+" noauth" {
		t.Errorf("without its accepted set it is %s", d)
	}
}

// A token that was deleted is no good; the device gets a new one.
func TestDeleteToken(t *testing.T) { overVersions(t, testDeleteToken) }

func testDeleteToken(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	private, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
	token := srv.boot(t, private, public, id).want(t, 200).body
	ask := func(token string) reply {
		r, err := srv.try(t.Context(), "GET", "/api/devices/v1/deployments/device/deployments/next", "", header("Authorization", "Bearer "+token))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ask(token).want(t, 204)
	set := srv.device(t, id).AuthSets[0].ID
	srv.do(t, "DELETE", "/tokens/"+set, "").want(t, 204)
	srv.do(t, "DELETE", "/tokens/"+set, "").want(t, 404)
	ask(token).want(t, 401)
	ask(srv.boot(t, private, public, id).want(t, 200).body).want(t, 204)
}

// With tiers an auth set is identity, key and tier, and each tier has a limit of
// its own; without them a tier changes nothing.
func TestTiers(t *testing.T) {
	const id = `{"mac":"aa"}`
	private, public := newKey(t, "ed25519")
	body := func(tier string) string {
		return strings.Replace(preauth(id, public, false), "{", `{"tier":"`+tier+`",`, 1)
	}
	plain := start(t, Config{})
	plain.do(t, "POST", "/devices", body("micro")).want(t, 201)
	plain.boot(t, private, public, id).want(t, 200) // it says standard
	if r := plain.do(t, "GET", "/devices", ""); strings.Contains(r.body, "tier") {
		t.Errorf("a service without tiers shows %s", r.body)
	}

	srv := start(t, Config{TierLimits: map[string]int{"micro": 7, "system": 0}})
	srv.do(t, "POST", "/devices", body("large")).want(t, 400).wantError(t)
	srv.do(t, "POST", "/devices", body("micro")).want(t, 201)
	srv.boot(t, private, public, id).want(t, 401) // standard is another auth set
	d := srv.device(t, id)
	if got := d.String(); got != id+" preauthorized [preauthorized] [pending]" || d.AuthSets[0].Tier != "micro" || d.AuthSets[1].Tier != "standard" {
		t.Errorf("the device is %s, %+v", got, d.AuthSets)
	}
	for name, want := range map[string]string{"max_devices": "-1", "max_micro_devices": "7", "max_system_devices": "0"} {
		if r := srv.do(t, "GET", "/limits/"+name, "").want(t, 200); r.body != `{"limit":`+want+`}` {
			t.Errorf("%s is %s", name, r.body)
		}
	}
	system := strings.Replace(preauth(`{"mac":"bb"}`, public, false), "{", `{"tier":"system",`, 1)
	srv.do(t, "POST", "/devices", system).want(t, 201)
	request, err := json.Marshal(map[string]string{"id_data": `{"mac":"bb"}`, "pubkey": string(public), "tier": "system"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := srv.try(t.Context(), "POST", authRequests, string(request), header("X-MEN-Signature", sign(t, private, request)))
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, 401)
	if d := srv.device(t, `{"mac":"bb"}`); d.Status != "preauthorized" {
		t.Errorf("a device beyond its tier's limit is %s", d)
	}
}
