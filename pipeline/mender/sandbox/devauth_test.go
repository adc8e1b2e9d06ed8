package sandbox

import (
	"bytes"
	"compress/gzip"
	"crypto/dsa" //nolint:staticcheck // a key type that the service must refuse
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// wantError checks the form of an error's body.
func (r reply) wantError(t *testing.T) {
	t.Helper()
	var e struct {
		Error     string `json:"error"`
		RequestID string `json:"request_id"`
	}
	r.json(t, &e)
	if e.Error == "" || e.RequestID != r.Header.Get("X-Men-Requestid") {
		t.Errorf("the error body is %s beside request id %q", r.body, r.Header.Get("X-Men-Requestid"))
	}
}

// shown is a device as the API shows it.
type shown struct {
	ID              string         `json:"id"`
	Identity        map[string]any `json:"identity_data"`
	Status          string         `json:"status"`
	Decommissioning bool           `json:"decommissioning"`
	AuthSets        []struct {
		ID       string         `json:"id"`
		PubKey   string         `json:"pubkey"`
		Identity map[string]any `json:"identity_data"`
		Status   string         `json:"status"`
		Time     time.Time      `json:"ts"`
	} `json:"auth_sets"`
}

func TestPreauthorizeStores(t *testing.T) { overVersions(t, testPreauthorizeStores) }

func testPreauthorizeStores(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	_, public := newKey(t, "ed25519")
	r := srv.do(t, "POST", "/devices", preauth(`{"serial":"1","mac":"aa"}`, public, false)).want(t, http.StatusCreated)
	id, relative := strings.CutPrefix(r.Header.Get("Location"), "devices/")
	if r.body != "" || !relative || !uuidForm.MatchString(id) {
		t.Errorf("answered body %q, Location %q", r.body, r.Header.Get("Location"))
	}
	if !uuidForm.MatchString(r.Header.Get("X-Men-Requestid")) {
		t.Errorf("X-Men-Requestid is %q", r.Header.Get("X-Men-Requestid"))
	}
	var d shown
	srv.do(t, "GET", "/devices/"+id, "").want(t, http.StatusOK).json(t, &d)
	if d.ID != id || d.Status != "preauthorized" || d.Identity["mac"] != "aa" || len(d.AuthSets) != 1 {
		t.Fatalf("GET shows %+v", d)
	}
	set := d.AuthSets[0]
	if set.PubKey != string(public) || set.Status != "preauthorized" || set.Identity["serial"] != "1" || set.Time.IsZero() {
		t.Errorf("its auth set is %+v", set)
	}
	if got := srv.do(t, "GET", "/devices/"+id, "", header("X-MEN-RequestID", "mine")).Header.Get("X-Men-Requestid"); got != "mine" {
		t.Errorf("the client's request id came back as %q", got)
	}
	srv.do(t, "GET", "/devices/"+srv.store.noDeviceID(1), "").want(t, http.StatusNotFound).wantError(t)
	srv.do(t, "GET", "/devices/nonsense", "").want(t, http.StatusNotFound).wantError(t)
}

// TestPreauthorizeRefuses has the refusals that don't depend on what is stored.
func TestPreauthorizeRefuses(t *testing.T) { overVersions(t, testPreauthorizeRefuses) }

func testPreauthorizeRefuses(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	_, public := newKey(t, "ed25519")
	good := preauth(`{"mac":"aa"}`, public, false)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(good))
	_ = z.Close()
	for name, c := range map[string]struct {
		body   string
		edit   func(*http.Request)
		status int
	}{
		"bad JSON":                 {body: good[:len(good)-2], status: 400},
		"BOM":                      {body: "\ufeff" + good, status: 400},
		"gzip":                     {body: zipped.String(), edit: header("Content-Encoding", "gzip"), status: 400},
		"no body":                  {edit: header("Content-Type", "application/json"), status: 400},
		"empty identity":           {body: preauth(`{}`, public, false), status: 400},
		"null identity":            {body: preauth(`null`, public, false), status: 400},
		"identity not object":      {body: preauth(`"mac"`, public, false), status: 400},
		"no key":                   {body: preauth(`{"mac":"aa"}`, nil, false), status: 400},
		"force not a bool":         {body: strings.Replace(good, "false", `"yes"`, 1), status: 400},
		"wrong content type":       {body: good, edit: header("Content-Type", "text/plain"), status: 415},
		"no content type":          {body: good, edit: func(r *http.Request) { r.Header.Del("Content-Type") }, status: 415},
		"over 1 MiB":               {body: good + strings.Repeat(" ", 1<<20), status: 413},
		"over 1 MiB in chunks":     {body: good + strings.Repeat(" ", 1<<20), edit: func(r *http.Request) { r.ContentLength = -1 }, status: 413},
		"no token":                 {body: good, edit: func(r *http.Request) { r.Header.Del("Authorization") }, status: 401},
		"Basic instead":            {body: good, edit: func(r *http.Request) { r.SetBasicAuth("a", "b") }, status: 401},
		"token not decodable":      {body: good, edit: header("Authorization", "Bearer abc"), status: 401},
		"token of another":         {body: good, edit: header("Authorization", "Bearer "+newTokens([]byte("x"), time.Hour).management(time.Now())), status: 401},
		"a device's token":         {body: good, edit: header("Authorization", "Bearer "+srv.tokens.device("d", "a", time.Now())), status: 401},
		"an expired token":         {body: good, edit: header("Authorization", "Bearer "+srv.tokens.management(time.Now().Add(-8*24*time.Hour))), status: 401},
		"charset is allowed":       {body: good, edit: header("Content-Type", "application/json; charset=utf-8"), status: 201},
		"what follows is not read": {body: strings.Replace(good, "aa", "ab", 1) + "rest", status: 201},
	} {
		t.Run(name, func(t *testing.T) {
			edit := c.edit
			if edit == nil {
				edit = func(*http.Request) {}
			}
			r := srv.do(t, "POST", "/devices", c.body, edit).want(t, c.status)
			if c.status >= 400 {
				r.wantError(t)
			}
			if c.status == 401 && r.Header.Get("Www-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
	if n := srv.Stats().Devices["preauthorized"]; n != 2 {
		t.Errorf("%d devices were stored, want the 2 that got 201", n)
	}
}

// spkiWith wraps key bytes in an SPKI with the algorithm.
func spkiWith(t *testing.T, oid asn1.ObjectIdentifier, params asn1.RawValue, key []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: params}, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
	if err != nil {
		t.Fatal(err)
	}
	return publicBlock(der)
}

func publicBlock(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestPreauthorizeNormalisesKeys(t *testing.T) { overVersions(t, testPreauthorizeNormalisesKeys) }

func testPreauthorizeNormalisesKeys(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	primes, _ := new(big.Int).SetString("b5b7a4e0d6a1b29d0b1f06a8f7d1f5c6e6b1a7a3f3d1c4e9", 16)
	dsaKey := dsa.PublicKey{Parameters: dsa.Parameters{P: primes, Q: big.NewInt(7), G: big.NewInt(2)}, Y: big.NewInt(3)}
	dsaParams, err := asn1.Marshal(struct{ P, Q, G *big.Int }{dsaKey.P, dsaKey.Q, dsaKey.G})
	if err != nil {
		t.Fatal(err)
	}
	rsa512 := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(12345), 511, 1), E: 65537}
	rsaPEM := string(publicPEM(t, rsaKey.Public()))
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)},
		&x509.Certificate{}, rsaKey.Public(), rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	p256OID, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	compressed := elliptic.MarshalCompressed(elliptic.P256(), p256.X, p256.Y)

	for i, c := range []struct {
		name, pem string
		stored    string // the normalised PEM; empty: 400
	}{
		{"RSA", rsaPEM, rsaPEM},
		{"P-224", string(publicPEM(t, p224.Public())), string(publicPEM(t, p224.Public()))},
		{"P-521", string(publicPEM(t, p521.Public())), string(publicPEM(t, p521.Public()))},
		{"RSA 512, which can never authenticate", string(publicPEM(t, rsa512)), string(publicPEM(t, rsa512))},
		{"CRLF", strings.ReplaceAll(rsaPEM, "\n", "\r\n"), rsaPEM},
		{"other wrapping", rewrap(rsaPEM, 76), rsaPEM},
		{"no final newline", strings.TrimSpace(rsaPEM), rsaPEM},
		{"text before it", "my key:\n" + rsaPEM, rsaPEM},
		{"PKCS#1", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)})), ""},
		{"certificate", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})), ""},
		{"RSA-PSS", string(spkiWith(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, asn1.RawValue{}, x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))), ""},
		{"RSA without NULL", string(spkiWith(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, asn1.RawValue{}, x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))), ""},
		{"X25519", string(publicPEM(t, x25519.PublicKey())), ""},
		{"DSA", string(spkiWith(t, asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, asn1.RawValue{FullBytes: dsaParams}, []byte{2, 1, 3})), ""},
		{"compressed point", string(spkiWith(t, asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.RawValue{FullBytes: p256OID}, compressed)), ""},
		{"one line", strings.ReplaceAll(rsaPEM, "\n", ""), ""},
		{"indented", "  " + strings.ReplaceAll(rsaPEM, "\n", "\n  "), ""},
		{"short Ed25519", string(publicBlock(append(bytes.Clone(ed25519Prefix), make([]byte, 31)...))), ""},
		{"long Ed25519", string(publicBlock(append(bytes.Clone(ed25519Prefix), make([]byte, 33)...))), ""},
		{"private key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})), ""},
		{"not PEM", "key", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := srv.do(t, "POST", "/devices", preauth(fmt.Sprintf(`{"n":"%d"}`, i), []byte(c.pem), false))
			if c.stored == "" {
				r.want(t, http.StatusBadRequest).wantError(t)
				return
			}
			r.want(t, http.StatusCreated)
			var d shown
			srv.do(t, "GET", "/"+r.Header.Get("Location"), "").want(t, http.StatusOK).json(t, &d)
			if d.AuthSets[0].PubKey != c.stored {
				t.Errorf("stored as\n%s, want\n%s", d.AuthSets[0].PubKey, c.stored)
			}
		})
	}
}

// rewrap breaks a PEM's base64 into lines of n characters.
func rewrap(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	body := strings.Join(lines[1:len(lines)-1], "")
	out := lines[0] + "\n"
	for ; len(body) > n; body = body[n:] {
		out += body[:n] + "\n"
	}
	return out + body + "\n" + lines[len(lines)-1] + "\n"
}

// TestConflict has what a second preauthorization of an identity meets.
func TestConflict(t *testing.T) { overVersions(t, testConflict) }

func testConflict(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	_, public := newKey(t, "ed25519")
	_, other := newKey(t, "ecdsa-p256")
	srv.do(t, "POST", "/devices", preauth(`{"mac":"aa","n":"1"}`, public, false)).want(t, http.StatusCreated)
	for name, body := range map[string]string{
		"same key":           preauth(`{"mac":"aa","n":"1"}`, public, false),
		"another key":        preauth(`{"mac":"aa","n":"1"}`, other, false),
		"another order":      preauth(`{"n":"1","mac":"aa"}`, public, false),
		"whitespace":         preauth("{ \"n\" :\n\"1\", \"mac\": \"aa\" }", public, false),
		"escaped characters": preauth(`{"mac":"\u0061a","n":"1"}`, public, false),
	} {
		t.Run(name, func(t *testing.T) {
			r := srv.do(t, "POST", "/devices", body).want(t, http.StatusConflict)
			var d shown
			r.json(t, &d)
			if d.ID != srv.device(t, `{"mac":"aa","n":"1"}`).ID || d.Status != "preauthorized" || d.Decommissioning {
				t.Errorf("409 shows %+v", d)
			}
			if !strings.Contains(r.body, `"auth_sets":null`) {
				t.Errorf("409's auth_sets is not null: %s", r.body)
			}
		})
	}
	for name, id := range map[string]string{
		"case of a value":        `{"mac":"AA","n":"1"}`,
		"case of a name":         `{"Mac":"aa","n":"1"}`,
		"a number, not a string": `{"mac":"aa","n":1}`,
		"a trailing space":       `{"mac":"aa ","n":"1"}`,
		"an attribute more":      `{"mac":"aa","n":"1","x":"1"}`,
		"an attribute less":      `{"mac":"aa"}`,
	} {
		t.Run(name, func(t *testing.T) {
			srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusCreated)
		})
	}
	// Numbers pass through float64, where these two are one.
	srv.do(t, "POST", "/devices", preauth(`{"imei":9007199254740992}`, public, false)).want(t, http.StatusCreated)
	srv.do(t, "POST", "/devices", preauth(`{"imei":9007199254740993}`, public, false)).want(t, http.StatusConflict)
}

func TestForce(t *testing.T) { overVersions(t, testForce) }

func testForce(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	_, first := newKey(t, "ed25519")
	_, second := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	r := srv.do(t, "POST", "/devices", preauth(id, first, true)).want(t, http.StatusCreated)
	if r.Header.Get("Location") != "devices/"+srv.device(t, id).ID {
		t.Error("force on a new identity names another device")
	}
	for range 2 { // an upsert: the second time changes nothing
		r = srv.do(t, "POST", "/devices", preauth(id, second, true)).want(t, http.StatusCreated)
		srv.do(t, "GET", "/"+r.Header.Get("Location"), "").want(t, http.StatusNotFound)
		if d := srv.device(t, id).String(); d != id+" preauthorized [preauthorized] [preauthorized]" {
			t.Errorf("after force: %s", d)
		}
	}
}

// TestOrphan has a device whose auth set was never stored: it answers 409 for
// ever, until force heals it.
func TestOrphan(t *testing.T) { overVersions(t, testOrphan) }

func testOrphan(t *testing.T, v Version) {
	srv := start(t, Config{Version: v, Faults: Faults{Orphan500: 1}})
	_, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusInternalServerError).wantError(t)
	srv.SetFaults(Faults{})
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusConflict)
	d := srv.device(t, id)
	if r := srv.do(t, "GET", "/devices/"+d.ID, ""); !strings.Contains(r.body, `"auth_sets":[]`) {
		t.Errorf("GET shows %s", r.body)
	}
	srv.do(t, "POST", "/devices", preauth(id, public, true)).want(t, http.StatusCreated)
	if d := srv.device(t, id).String(); d != id+" preauthorized [preauthorized]" {
		t.Errorf("healed to %s", d)
	}
}

func TestDecommissioning(t *testing.T) { overVersions(t, testDecommissioning) }

func testDecommissioning(t *testing.T, v Version) {
	srv := start(t, Config{Version: v, Decommission: time.Hour})
	_, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusCreated)
	d := srv.device(t, id)
	for range 2 {
		srv.do(t, "DELETE", "/devices/"+d.ID, "").want(t, http.StatusNoContent)
	}
	var seen shown
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusConflict).json(t, &seen)
	if !seen.Decommissioning {
		t.Error("409 does not say decommissioning")
	}
	srv.do(t, "POST", "/devices", preauth(id, public, true)).want(t, http.StatusCreated)
	srv.store.reap(time.Now().Add(59 * time.Minute))
	srv.do(t, "GET", "/devices/"+d.ID, "").want(t, http.StatusOK)
	srv.store.reap(time.Now().Add(time.Hour))
	srv.do(t, "GET", "/devices/"+d.ID, "").want(t, http.StatusNotFound)
	r := srv.do(t, "DELETE", "/devices/"+d.ID, "").want(t, http.StatusNotFound)
	if r.body != "" {
		t.Errorf("DELETE's 404 has the body %q", r.body)
	}
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, http.StatusCreated)
	if again := srv.device(t, id); again.ID == d.ID {
		t.Error("the id of a deleted device came back")
	}
}

func TestDeleteAuthSet(t *testing.T) { overVersions(t, testDeleteAuthSet) }

func testDeleteAuthSet(t *testing.T, v Version) {
	_, first := newKey(t, "ed25519")
	_, second := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	t.Run("the only one takes the device along", func(t *testing.T) {
		srv := start(t, Config{Version: v})
		srv.do(t, "POST", "/devices", preauth(id, first, false)).want(t, http.StatusCreated)
		d := srv.device(t, id)
		path := "/devices/" + d.ID + "/auth/" + d.AuthSets[0].ID
		srv.do(t, "DELETE", path+"0", "").want(t, http.StatusNotFound)
		srv.do(t, "DELETE", path, "").want(t, http.StatusNoContent)
		srv.do(t, "DELETE", path, "").want(t, http.StatusNotFound)
		srv.do(t, "GET", "/devices/"+d.ID, "").want(t, http.StatusNotFound)
		srv.do(t, "POST", "/devices", preauth(id, first, false)).want(t, http.StatusCreated)
	})
	t.Run("one of two", func(t *testing.T) {
		srv := start(t, Config{Version: v})
		private, first := newKey(t, "ed25519")
		srv.do(t, "POST", "/devices", preauth(id, first, false)).want(t, http.StatusCreated)
		srv.do(t, "POST", "/devices", preauth(id, second, true)).want(t, http.StatusCreated)
		d := srv.device(t, id)
		srv.do(t, "DELETE", "/devices/"+d.ID+"/auth/"+d.AuthSets[0].ID, "").want(t, http.StatusNoContent)
		if v == Mender41 { // the device goes with it
			srv.do(t, "GET", "/devices/"+d.ID, "").want(t, http.StatusNotFound)
			return
		}
		if d := srv.device(t, id).String(); d != id+" preauthorized [preauthorized]" {
			t.Errorf("now there is %s", d)
		}
		srv.boot(t, private, first, id).want(t, http.StatusUnauthorized)
	})
	t.Run("an accepted device's only one", func(t *testing.T) {
		srv := start(t, Config{Version: v})
		private, first := newKey(t, "ed25519")
		srv.do(t, "POST", "/devices", preauth(id, first, false)).want(t, http.StatusCreated)
		srv.boot(t, private, first, id).want(t, http.StatusOK)
		d := srv.device(t, id)
		srv.do(t, "DELETE", "/devices/"+d.ID+"/auth/"+d.AuthSets[0].ID, "").want(t, http.StatusNoContent)
		r := srv.do(t, "GET", "/devices/"+d.ID, "").want(t, http.StatusOK)
		if !strings.Contains(r.body, `"status":"noauth"`) || !strings.Contains(r.body, `"auth_sets":[]`) {
			t.Errorf("it is %s", r.body)
		}
	})
	t.Run("what 4.1 leaves dangling", func(t *testing.T) {
		srv := start(t, Config{Version: Mender41})
		srv.do(t, "POST", "/devices", preauth(id, first, false)).want(t, http.StatusCreated)
		srv.do(t, "POST", "/devices", preauth(id, second, true)).want(t, http.StatusCreated)
		d := srv.device(t, id)
		srv.do(t, "DELETE", "/devices/"+d.ID+"/auth/"+d.AuthSets[0].ID, "").want(t, http.StatusNoContent)
		srv.do(t, "GET", "/devices/"+d.ID, "").want(t, http.StatusNotFound)
		// The second key is blocked, and the refusal makes an orphan.
		srv.do(t, "POST", "/devices", preauth(id, second, false)).want(t, http.StatusConflict)
		if d := srv.device(t, id).String(); d != id+" preauthorized" {
			t.Errorf("now there is %s", d)
		}
		// Removing the set answers 500, and works.
		path := "/devices/" + d.ID + "/auth/" + d.AuthSets[1].ID
		srv.do(t, "GET", path+"/status", "").want(t, http.StatusOK)
		srv.do(t, "DELETE", path, "").want(t, http.StatusInternalServerError)
		srv.do(t, "DELETE", path, "").want(t, http.StatusNotFound)
		srv.do(t, "POST", "/devices", preauth(id, second, true)).want(t, http.StatusCreated)
		if d := srv.device(t, id).String(); d != id+" preauthorized [preauthorized]" {
			t.Errorf("in the end there is %s", d)
		}
	})
}

func TestLimitsAndLogin(t *testing.T) { overVersions(t, testLimitsAndLogin) }

func testLimitsAndLogin(t *testing.T, v Version) {
	srv := start(t, Config{Version: v, MaxDevices: 2, User: "operator@example.com", Password: "right"})
	if r := srv.do(t, "GET", "/limits/max_devices", "").want(t, http.StatusOK); r.body != `{"limit":2}` {
		t.Errorf("the limit is %s", r.body)
	}
	srv.do(t, "GET", "/limits/other", "").want(t, http.StatusBadRequest).wantError(t)
	if r := start(t, Config{Version: v}).do(t, "GET", "/limits/max_devices", ""); r.body != map[Version]string{Main: `{"limit":-1}`, Mender41: `{"limit":0}`}[v] {
		t.Errorf("no limit is %s", r.body)
	}
	// The limit is not checked here.
	_, public := newKey(t, "ed25519")
	for i := range 4 {
		srv.do(t, "POST", "/devices", preauth(fmt.Sprintf(`{"n":"%d"}`, i), public, false)).want(t, http.StatusCreated)
	}

	login := func(user, password string) reply {
		r, err := srv.try(t.Context(), "POST", "/api/management/v1/useradm/auth/login", "",
			func(r *http.Request) { r.SetBasicAuth(user, password) })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	login("operator@example.com", "wrong").want(t, http.StatusUnauthorized).wantError(t)
	login("", "").want(t, http.StatusUnauthorized)
	r := login("operator@example.com", "right").want(t, http.StatusOK)
	if r.Header.Get("Content-Type") != "application/jwt" || strings.Count(r.body, ".") != 2 {
		t.Errorf("login answers %s %q", r.Header.Get("Content-Type"), r.body)
	}
	srv.token = r.body
	srv.do(t, "GET", "/devices/count", "").want(t, http.StatusOK)
	srv.Revoke()
	srv.do(t, "GET", "/devices/count", "").want(t, http.StatusUnauthorized)
	srv.token = srv.Token()
	srv.do(t, "GET", "/devices/count", "").want(t, http.StatusOK)
}

func TestListAndSearch(t *testing.T) { overVersions(t, testListAndSearch) }

func testListAndSearch(t *testing.T, v Version) {
	srv := start(t, Config{Version: v})
	const devices = 1203
	all := map[string]bool{}
	for n := range uint64(devices) {
		_, _, err := srv.store.preauthorize(identity(fmt.Sprintf(`{"n":"%d"}`, n)), setKey{spki: string(ed25519Prefix)}, false, false)
		if err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	next := regexp.MustCompile(`^<(/api/[^>]*)>; rel="next"$`)
	for path := devauth + "/devices?per_page=500&status=preauthorized"; path != ""; pages++ {
		r, err := srv.try(t.Context(), "GET", path, "")
		if err != nil {
			t.Fatal(err)
		}
		var list []shown
		r.want(t, http.StatusOK).json(t, &list)
		for _, d := range list {
			all[d.ID] = true
		}
		if r.Header.Get("X-Total-Count") != "" {
			t.Error("X-Total-Count is set")
		}
		path = ""
		for _, l := range r.Header.Values("Link") {
			if m := next.FindStringSubmatch(l); m != nil {
				path = m[1]
			}
		}
	}
	if pages != 3 || len(all) != devices {
		t.Errorf("%d pages list %d devices, want 3 and %d", pages, len(all), devices)
	}
	some := srv.device(t, `{"n":"7"}`)
	for path, want := range map[string]struct{ status, devices int }{
		"/devices":                                      {200, 20},
		"/devices?per_page=500":                         {200, 500},
		"/devices?per_page=501":                         {400, 0},
		"/devices?per_page=0":                           {400, 0},
		"/devices?page=0":                               {400, 0},
		"/devices?page=x":                               {400, 0},
		"/devices?page=99&per_page=500":                 {200, 0},
		"/devices?page=3&per_page=500":                  {200, 203},
		"/devices?status=accepted":                      {200, 0},
		"/devices?status=accepted&status=preauthorized": {200, 20},
		"/devices?status=strange":                       {400, 0},
		"/devices?id=" + some.ID:                        {200, 1},
		"/devices?id=" + some.ID + "&status=accepted":   {200, 0},
		"/devices?id=none":                              {200, 0},
	} {
		r := srv.do(t, "GET", path, "").want(t, want.status)
		if want.status != 200 {
			r.wantError(t)
			continue
		}
		var list []json.RawMessage
		if r.json(t, &list); len(list) != want.devices {
			t.Errorf("%s lists %d devices, want %d", path, len(list), want.devices)
		}
	}
	for body, want := range map[string]int{
		`{}`:                                         20,
		`{"status":"preauthorized"}`:                 20,
		`{"status":["accepted","pending"]}`:          0,
		`{"status":"strange"}`:                       0,
		`{"id":"` + some.ID + `"}`:                   1,
		`{"id":["` + some.ID + `","x"]}`:             1,
		`{"identity_data":{"n":"7"}}`:                20, // never filters on identity
		`{"id":"` + some.ID + `","status":"noauth"}`: 0,
		`[]`:        -1,
		`{"id":7}`:  -1,
		`{"id":"7"`: -1,
	} {
		r := srv.do(t, "POST", "/devices/search", body)
		if want < 0 {
			r.want(t, http.StatusBadRequest).wantError(t)
			continue
		}
		var list []json.RawMessage
		if r.want(t, http.StatusOK).json(t, &list); len(list) != want {
			t.Errorf("search %s finds %d devices, want %d", body, len(list), want)
		}
	}
	for path, want := range map[string]string{
		"/devices/count":                      `{"count":1203}`,
		"/devices/count?status=preauthorized": `{"count":1203}`,
		"/devices/count?status=rejected":      `{"count":0}`,
	} {
		if r := srv.do(t, "GET", path, "").want(t, http.StatusOK); r.body != want {
			t.Errorf("%s answers %s", path, r.body)
		}
	}
	srv.do(t, "GET", "/devices/count?status=strange", "").want(t, http.StatusBadRequest).wantError(t)
}
