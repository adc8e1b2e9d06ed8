package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keymill/pipeline/mender/sandbox"
)

// TestOneDeviceOneMedium makes 100 attempts to get one device's image onto two media:
// at the same time, by several processes, over flash, write and serve, and with
// processes that are killed. Never do two of them hold the key.
func TestOneDeviceOneMedium(t *testing.T) {
	needRoot(t, "it sets up loop devices")
	needTools(t, "e2fsprogs", "debugfs")
	needTools(t, "mount", "losetup")
	f := newFactory(t, 4, sandbox.Config{})
	if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	for _, rec := range f.records() {
		device := rec.Identity.Name()
		media := newMedia(t, f, device)
		for round := range 5 { // of five attempts each, for four devices
			media.attempts(round)
			if with := media.withKey(); len(with) > 1 {
				t.Fatalf("%s, round %d: the key is on %v\n%s", device, round, with, media.list())
			}
		}
		if len(media.withKey()) == 0 && !strings.Contains(media.list(), "writing") {
			t.Errorf("%s: no attempt succeeded\n%s", device, media.list())
		}
	}
}

// media are the places to which a device's image may go.
type media struct {
	t      *testing.T
	f      *factory
	device string
	loops  []string
	url    string

	mu     sync.Mutex
	bodies [][]byte // guarded by mu: what clients got
}

func newMedia(t *testing.T, f *factory, device string) *media {
	m := &media{t: t, f: f, device: device}
	for i := range 2 {
		card := f.path(fmt.Sprintf("card-%s-%d", strings.ReplaceAll(device, ":", ""), i))
		if err := os.WriteFile(card, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(card, 80<<20); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("losetup", "--show", "-f", card).Output()
		if err != nil {
			t.Fatalf("losetup, as root: %v", err)
		}
		loop := strings.TrimSpace(string(out))
		t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
		m.loops = append(m.loops, loop)
	}
	f.write("serve-token", func(w io.Writer) error { _, err := io.WriteString(w, "one s3cret\ntwo s4cret\n"); return err })
	cmd, _ := f.process("image", "serve", "--ledger", f.ledger, "--serve-token-file", f.path("serve-token"))
	cmd.Stdout = nil
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	m.url = strings.TrimSpace(url) + "/lot/" + device + ".img"
	return m
}

// attempts makes five at the same time.
func (m *media) attempts(round int) {
	var wg sync.WaitGroup
	for i := range 5 {
		kill := time.Duration(0)
		if round%2 == 1 {
			kill = time.Duration(rand.N(400)+20) * time.Millisecond
		}
		wg.Go(func() {
			switch (i + round) % 5 {
			case 0, 1:
				m.run(kill, "image", "flash", "lot", m.device, m.loops[i%2], "--ledger", m.f.ledger)
			case 2:
				m.run(kill, "image", "write", "lot", m.device, "-o", m.f.path(fmt.Sprintf("out-%s-%d.img", strings.ReplaceAll(m.device, ":", ""), round)), "--ledger", m.f.ledger)
			default:
				m.fetch([]string{"s3cret", "s4cret"}[i%2])
			}
		})
	}
	wg.Wait()
}

// run runs a process, and kills it after a time, unless that is 0.
func (m *media) run(kill time.Duration, args ...string) {
	cmd, _ := m.f.process(args...)
	if err := cmd.Start(); err != nil {
		m.t.Error(err)
		return
	}
	if kill > 0 {
		timer := time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	_ = cmd.Wait() // most are refused
}

func (m *media) fetch(token string) {
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.url, nil)
	if err != nil {
		m.t.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK {
		m.mu.Lock()
		m.bodies = append(m.bodies, body)
		m.mu.Unlock()
	}
}

// withKey names the places that hold a private key.
func (m *media) withKey() []string {
	m.t.Helper()
	var found []string
	files, err := filepath.Glob(m.f.path("out-" + strings.ReplaceAll(m.device, ":", "") + "-*"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, path := range append(files, m.loops...) {
		file, err := os.Open(path)
		if err != nil {
			m.t.Fatal(err)
		}
		data, err := io.ReadAll(file)
		file.Close()
		if err != nil {
			m.t.Fatal(err)
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			found = append(found, path)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, body := range m.bodies {
		if bytes.Contains(body, []byte("PRIVATE KEY")) {
			found = append(found, fmt.Sprintf("answer %d", i))
		}
	}
	return found
}

func (m *media) list() string {
	_, out, _ := m.f.call("unit", "show", "lot", m.device, "--ledger", m.f.ledger)
	return out
}
