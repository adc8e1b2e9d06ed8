package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender/sandbox"
)

// tokenLot runs a lot whose keys stay in the token, and returns how many lie there.
func (s *hsmStation) tokenLot(devices int) {
	s.t.Helper()
	if code, log := s.do(s.lot("--keys", "token")); code != 0 {
		s.t.Fatalf("exit %d: %s", code, log)
	}
	s.checkLot(devices)
	s.checkKeys(devices)
}

// checkKeys counts the key pairs that lie in the token.
func (s *hsmStation) checkKeys(want int) {
	s.t.Helper()
	code, out := s.do([]string{"hsm", "list", "--objects", "--json", "--hsm", s.uri, "--ledger", s.ledger})
	if n := strings.Count(out, `"spki_sha256"`); code != 0 || n != want {
		s.t.Errorf("exit %d, %d keys in the token, want %d: %s", code, n, want, out)
	}
}

// TestUndoTakesKeysOutOfTheToken, also after gc has looked at them; where the
// token has shipped, it says that they stay.
func TestUndoTakesKeysOutOfTheToken(t *testing.T) {
	t.Parallel()
	undo := []string{"undo", "lot", "--yes"}
	t.Run("destroyed", func(t *testing.T) {
		s := newStation(newFactory(t, 3, sandbox.Config{}))
		s.tokenLot(3)
		at := []string{"--ledger", s.ledger, "--server", s.server, "--token-file", s.path("sb", "token"), "--ca-file", s.path("sb", "ca.crt")}
		if code, out := s.do([]string{"hsm", "gc", "--destroy", "--hsm", s.uri, "--ledger", s.ledger}); code != 0 || !strings.Contains(out, "nothing was left") {
			t.Errorf("exit %d: %s", code, out)
		}
		s.checkKeys(3)
		away := s.path("token", "away")
		if err := os.Rename(s.path("token", "tokens"), away); err != nil {
			t.Fatal(err)
		}
		code, out := s.do(append(append(undo, at...), "--hsm", s.uri))
		if code != exitHSM || !strings.Contains(out, "--keys-stay") || countDevices(s.box) != 3 {
			t.Errorf("without the token: exit %d, want %d, what to do, and nothing changed: %s", code, exitHSM, out)
		}
		if err := os.Rename(away, s.path("token", "tokens")); err != nil {
			t.Fatal(err)
		}
		if code, out := s.do(append(append(undo, at...), "--hsm", s.uri)); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		s.checkKeys(0)
		s.checkEvents("undone", "destroyed", 3)
		s.checkEvidence()
		if n := countDevices(s.box); n != 0 {
			t.Errorf("the server has %d devices", n)
		}
	})
	t.Run("stay", func(t *testing.T) {
		s := newStation(newFactory(t, 2, sandbox.Config{}))
		s.tokenLot(2)
		at := []string{"--ledger", s.ledger, "--server", s.server, "--token-file", s.path("sb", "token"), "--ca-file", s.path("sb", "ca.crt")}
		if code, out := s.do(append(append(undo, at...), "--keys-stay")); code != 0 || !strings.Contains(out, "hsm gc --destroy") {
			t.Fatalf("exit %d: %s", code, out)
		}
		s.checkKeys(2)
		s.checkEvents("undone", "in-token", 2)
		s.checkEvidence()
		s.checkTokenEmpty() // its gc finds that they are nobody's now
	})
}

// checkEvidence: the auditor's program finds nothing wrong with the lot.
func (s *hsmStation) checkEvidence() {
	s.t.Helper()
	code, key := s.do([]string{"audit", "key", "--ledger", s.ledger})
	if code != 0 {
		s.t.Fatalf("exit %d: %s", code, key)
	}
	if err := os.WriteFile(s.path("station.pem"), []byte(key), 0o600); err != nil {
		s.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"export", "lot", "-o", s.path("bundle"), "--format", "csv", "--ledger", s.ledger},
		{"audit", "verify", s.path("bundle"), "--key", s.path("station.pem")},
	} {
		if code, out := s.do(args); code != 0 {
			s.t.Errorf("%v: exit %d: %s", args, code, out)
		}
	}
}

// TestRekeyInToken: the old key leaves the token, and the new one is its only key.
func TestRekeyInToken(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 3, sandbox.Config{}))
	s.tokenLot(3)
	before := s.records()[1]
	code, out := s.do([]string{"retry", "lot", "--rekey", before.Identity.Name(), "--hsm", s.uri, "--ledger", s.ledger,
		"--server", s.server, "--token-file", s.path("sb", "token"), "--ca-file", s.path("sb", "ca.crt")})
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkLot(3)
	s.checkKeys(3)
	s.checkEvents("key-destroyed", "destroyed", 1)
	s.checkEvidence()
	if after := s.records()[1]; bytes.Equal(after.PublicKey, before.PublicKey) {
		t.Error("the device has its old key")
	}
}

// TestPlanLeavesNoKeyInTheToken: a dry run changes nothing there either.
func TestPlanLeavesNoKeyInTheToken(t *testing.T) {
	t.Parallel()
	s := newStation(newFactory(t, 3, sandbox.Config{}))
	for _, keys := range []string{"token", "hsm"} {
		plan := append([]string{"plan"}, s.lot("--keys", keys)[1:]...)
		if code, out := s.do(plan); code != 0 || !strings.Contains(out, "Keys:     ecdsa-p256, "+keys) {
			t.Fatalf("exit %d: %s", code, out)
		}
		if code, out := s.do([]string{"image", "plan", "--golden", s.path("golden.sdimg"), "--ledger", s.ledger},
			"KEYMILL_KEYS_SOURCE="+keys, "KEYMILL_KEYS_HSM="+s.uri, "KEYMILL_KEYS_ALGORITHM=ecdsa-p256"); code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
		s.checkKeys(0)
	}
}

// TestEvidenceSaysWhereKeysAreFrom: what the reference asks for stands in the
// event that begins a run.
func TestEvidenceSaysWhereKeysAreFrom(t *testing.T) {
	t.Parallel()
	for keys, wants := range map[string][]string{
		"hsm": {`"key_mechanism"`, `"key_transport"`, "SoftHSM", `"token_serial"`, `"token_model"`, "factory", "CKM_AES_KEY_WRAP_PAD (RFC 5649)",
			`"key_always_sensitive":"true"`, `"key_never_extractable":"false"`, "passes through this host's memory"},
		"token":       {`"key_always_sensitive":"true"`, `"key_never_extractable":"true"`, "not extractable"},
		"hsm-entropy": {"C_GenerateRandom", "only the random numbers are the token's"},
	} {
		s := newStation(newFactory(t, 1, sandbox.Config{}))
		if code, out := s.do(s.lot("--keys", keys)); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		events := s.events("run-started")
		for _, want := range wants {
			if len(events) != 1 || !strings.Contains(events[0], want) {
				t.Errorf("%s: no %s in %q", keys, want, events)
			}
		}
	}
}

// checkEvents counts the lot's events with an action and what they say of the key.
func (s *hsmStation) checkEvents(action, key string, want int) {
	s.t.Helper()
	n := 0
	for _, text := range s.events(action) {
		if strings.Contains(text, `"key":"`+key+`"`) {
			n++
		}
	}
	if n != want {
		s.t.Errorf("%d events say that a device was %s and its key %s, want %d", n, action, key, want)
	}
}

// events returns the lot's events with an action.
func (s *hsmStation) events(action string) (all []string) {
	s.t.Helper()
	db, err := ledger.Open(s.t.Context(), s.ledger)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	for event, err := range db.Events(s.t.Context(), "lot") {
		if err != nil {
			s.t.Fatal(err)
		}
		if text := string(event.Canonical); strings.Contains(text, `"action":"`+action+`"`) {
			all = append(all, text)
		}
	}
	return all
}

// TestTokenLotKillNine: after any number of kills the token holds exactly the
// keys of the lot's devices.
func TestTokenLotKillNine(t *testing.T) {
	t.Parallel()
	const devices = 150
	s := newStation(newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond}}))
	args := s.lot("--keys", "token", "--in-flight", "4")
	killed := s.killInTheMiddle(args, 6, s.env...)
	t.Logf("killed %d times in the middle", killed)
	s.box.SetFaults(sandbox.Faults{})
	if code, out := s.do(args); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkLot(devices)
	if code, out := s.do([]string{"hsm", "gc", "--destroy", "--hsm", s.uri, "--ledger", s.ledger}); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkKeys(devices)
	s.checkEvidence()
}

// identityScripts is where Debian's client looks for the identity script.
const identityScripts = "/usr/share/mender/identity"

// TestRealClientWithItsKeyInAToken boots Debian's mender-client with the
// mender.conf out of a produced image and the token that stayed with the
// device: it is accepted, and isn't as another device.
func TestRealClientWithItsKeyInAToken(t *testing.T) {
	needRoot(t, "it boots mender-client in a mount namespace of its own")
	needTools(t, "mender-client", "mender", "unshare")
	needTools(t, "mender-artifact", "mender-artifact")
	engines, err := filepath.Glob("/usr/lib/*/engines-3/pkcs11.so")
	if err != nil || len(engines) == 0 {
		needTools(t, "libengine-pkcs11-openssl", "engines-3/pkcs11.so")
	}
	for _, algorithm := range []string{"ecdsa-p256", "rsa-2048"} {
		s := newStation(newFactory(t, 2, sandbox.Config{}))
		args := s.args("--keys", "token", "--hsm", s.uri, "--algorithm", algorithm)
		if code, out := s.do(args, "KEYMILL_KEYS_DEVICE_PIN_SOURCE="+s.path("token", "pin")); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		own, other := s.records()[0], s.records()[1]
		for _, boot := range []struct {
			as, image *pipeline.Record
			want      string
		}{{own, other, "preauthorized"}, {own, own, "accepted"}} {
			out, err := s.bootWithToken(boot.as, boot.image, engines[0])
			device, _ := s.box.Find(boot.as.Identity.JSON())
			if device.Status != boot.want || (err == nil) != (boot.want == "accepted") {
				t.Errorf("%s: the device is %s, want %s; %v\n%s", algorithm, device.Status, boot.want, err, out)
			}
		}
	}
}

// bootWithToken starts a mender-client once, as dev with the mender.conf of another's image.
func (s *hsmStation) bootWithToken(dev, image *pipeline.Record, engine string) ([]byte, error) {
	s.t.Helper()
	data := s.t.TempDir()
	text, err := exec.Command("mender-artifact", "cat", s.path("out", "images", image.Output.Name)+":/data/mender/mender.conf").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	conf := map[string]any{"ServerURL": s.server, "ServerCertificate": s.path("sb", "ca.crt"), "DBus": map[string]bool{"Enabled": false}}
	if err := json.Unmarshal(text, &conf); err != nil {
		s.t.Fatal(err)
	}
	merged, err := json.Marshal(conf)
	if err != nil {
		s.t.Fatal(err)
	}
	identity := "#!/bin/sh\n"
	for _, attr := range dev.Identity {
		identity += "echo '" + attr.Name + "=" + attr.Value + "'\n"
	}
	if err := os.Mkdir(filepath.Join(data, "identity"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	for name, content := range map[string]string{
		"mender.conf": string(merged), "device_type": "device_type=trial\n", "identity/mender-device-identity": identity,
	} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mkdir -p "$SCRIPTS" && mount --bind "$DATA/identity" "$SCRIPTS" && exec timeout 60 \
		mender --no-syslog --config "$DATA/mender.conf" --fallback-config "$DATA/none.conf" --data "$DATA" bootstrap`)
	cmd.Env = append(append(os.Environ(), s.env...), "PKCS11_MODULE_PATH="+modulePath.FindStringSubmatch(s.uri)[1],
		"OPENSSL_ENGINES="+filepath.Dir(engine), "DATA="+data, "SCRIPTS="+identityScripts)
	return cmd.CombinedOutput()
}

// TestImageForAProvider: a device that reaches its token by OpenSSL 3's
// provider gets the settings for it, and a mender.conf that names no engine.
func TestImageForAProvider(t *testing.T) {
	t.Parallel()
	needTools(t, "mender-artifact", "mender-artifact")
	s := newStation(newFactory(t, 2, sandbox.Config{}))
	args := s.args("--keys", "token", "--hsm", s.uri, "--algorithm", "ecdsa-p256")
	if code, out := s.do(args, "KEYMILL_KEYS_DEVICE_MODULE=/usr/lib/device.so", "KEYMILL_KEYS_DEVICE_PIN_SOURCE=/data/pin"); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	for _, rec := range s.records() {
		for name, wants := range map[string][]string{
			"mender.conf": {`"AuthPrivateKey":"pkcs11:`, "?pin-source=/data/pin"}, "openssl.cnf": {"pkcs11-module-path = /usr/lib/device.so\n"},
		} {
			out, err := exec.Command("mender-artifact", "cat", s.path("out", "images", rec.Output.Name)+":/data/mender/"+name).Output()
			for _, want := range wants {
				if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "SSLEngine") {
					t.Errorf("%s is %q, want %q in it and no engine; %v", name, out, want, err)
				}
			}
		}
	}
	if code, out := s.do(args, "KEYMILL_KEYS_DEVICE_MODULE="); code == 0 {
		t.Errorf("the lot goes on with images of another kind: %s", out)
	}
}
