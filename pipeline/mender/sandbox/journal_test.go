package sandbox

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// all lists a sandbox's devices and their ids, sorted.
func all(s *Sandbox) []string {
	var list []string
	for d := range s.Devices() {
		line := d.String() + " " + d.ID
		for _, a := range d.AuthSets {
			line += " " + a.ID + fmt.Sprintf(" %x %s", a.SPKI, a.Time.UTC())
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

// TestRestart: a sandbox that is started again in its folder is the same server.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	cfg := Config{Version: Mender41, Dir: dir, Seed: 7, Decommission: time.Hour} // where sets can be left dangling
	private, public := newKey(t, "rsa-2048")
	_, other := newKey(t, "ed25519")
	srv := start(t, cfg)
	for n := range 200 {
		srv.do(t, "POST", "/devices", preauth(fmt.Sprintf(`{"n":"%d","<b>":"\"ü"}`, n), other, false)).want(t, 201)
	}
	const id, twice, doomed = `{"mac":"aa"}`, `{"mac":"bb"}`, `{"mac":"cc"}`
	srv.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 201)
	srv.boot(t, private, public, id).want(t, 200)
	srv.do(t, "POST", "/devices", preauth(twice, public, false)).want(t, 201)
	srv.do(t, "POST", "/devices", preauth(twice, other, true)).want(t, 201)
	d := srv.device(t, twice)
	srv.do(t, "DELETE", "/devices/"+d.ID+"/auth/"+d.AuthSets[0].ID, "").want(t, 204)
	srv.do(t, "POST", "/devices", preauth(doomed, public, false)).want(t, 201)
	srv.do(t, "DELETE", "/devices/"+srv.device(t, doomed).ID, "").want(t, 204)
	before := all(srv.Sandbox)
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}

	cfg.Seed = 8 // the folder's seed counts: ids must not change
	again := start(t, cfg)
	if after := all(again.Sandbox); !slices.Equal(before, after) {
		t.Errorf("before: %d devices, after: %d; they differ", len(before), len(after))
	}
	if string(again.CACert()) != string(srv.CACert()) {
		t.Error("the CA changed")
	}
	again.token = srv.token
	again.do(t, "GET", "/devices/count", "").want(t, 200)
	again.do(t, "POST", "/devices", preauth(id, public, false)).want(t, 409)
	again.boot(t, private, public, id).want(t, 200)
	// The dangling set still blocks its key, a new id does not repeat an old one,
	// and the deletion that had begun ends.
	again.do(t, "POST", "/devices", preauth(twice, other, false)).want(t, 409)
	if again.device(t, twice).ID == d.ID {
		t.Error("the id of a deleted device came back")
	}
	again.store.reap(time.Now().Add(2 * time.Hour))
	if _, ok := again.Find([]byte(doomed)); ok {
		t.Error("a deletion was forgotten")
	}
	if n := again.Stats().Devices["accepted"]; n != 1 {
		t.Errorf("%d devices are accepted, want 1", n)
	}
}

// TestKill: after a kill the journal may end anywhere in a line.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	srv := start(t, Config{Dir: dir})
	_, public := newKey(t, "ed25519")
	for n := range 3 {
		srv.do(t, "POST", "/devices", preauth(fmt.Sprintf(`{"n":"%d"}`, n), public, false)).want(t, http.StatusCreated)
	}
	name := filepath.Join(dir, journalName)
	// Without a close the changes reach the file by themselves.
	eventually(t, func() bool {
		data, err := os.ReadFile(name)
		return err == nil && strings.Count(string(data), "\n") == 3
	})
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.Index(string(whole), "\n") + 1
	third := second + strings.Index(string(whole[second:]), "\n") + 1
	for cut, want := range map[int]int{third: 2, third + 1: 2, len(whole) - 1: 2, second: 1, 5: 0, 0: 0, len(whole): 3} {
		write(t, name, whole[:cut])
		s, err := New(Config{Dir: dir})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if n := s.Stats().Devices["preauthorized"]; n != want {
			t.Errorf("cut at %d: %d devices, want %d", cut, n, want)
		}
		// What is appended next must begin a line.
		if _, _, err := s.store.preauthorize(`{"n":"9"}`, setKey{spki: "spki"}, false, false); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		again, err := New(Config{Dir: dir})
		if err != nil {
			t.Fatalf("cut at %d, second start: %v", cut, err)
		}
		if n := again.Stats().Devices["preauthorized"]; n != want+1 {
			t.Errorf("cut at %d: %d devices after one more, want %d", cut, n, want+1)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedFolder(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"journal": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, journalName), []byte("{}\nnonsense\n{}\n"), 0o600)
		},
		"a number beyond reason": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, journalName), []byte(`{"n":18446744073709551615,"status":"pending"}`+"\n"), 0o600)
		},
		"a status that is none": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, journalName), []byte(`{"n":1,"status":"x"}`+"\n"), 0o600)
		},
		"secrets": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, secretsName), []byte("{"), 0o600)
		},
		"CA": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, secretsName), []byte("{}"), 0o600)
		},
		"folder": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if name == "folder" {
				dir = filepath.Join(dir, "x")
			}
			if _, err := New(Config{Dir: dir}); err == nil {
				t.Error("a damaged folder was accepted")
			}
		})
	}
}

func TestOneSandboxAFolder(t *testing.T) {
	dir := t.TempDir()
	first, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another sandbox") {
		t.Errorf("a second sandbox in the folder: %v", err)
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
	}
	second, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
