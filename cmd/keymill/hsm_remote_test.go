package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keymill/pipeline/mender/sandbox"
)

// behindServer puts the station's token behind a p11-kit server, which serves
// each connection by a child of its own, and returns the server.
func (s *hsmStation) behindServer() *exec.Cmd {
	s.t.Helper()
	needTools(s.t, "p11-kit", "p11-kit")
	clients, err := filepath.Glob("/usr/lib/*/pkcs11/p11-kit-client.so")
	if err != nil || len(clients) == 0 {
		needTools(s.t, "p11-kit-modules", "pkcs11/p11-kit-client.so")
	}
	module, socket := modulePath.FindStringSubmatch(s.uri)[1], s.path("p11.socket")
	server := exec.Command("p11-kit", "server", "-f", "-n", socket, "--provider", module, "pkcs11:token=factory")
	server.Env = append(os.Environ(), s.env...)
	if err := server.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		for _, pid := range append(children(server.Process.Pid), server.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already, perhaps
		}
		_ = server.Wait()
	})
	s.env = append(s.env, "P11_KIT_SERVER_ADDRESS=unix:path="+socket)
	s.uri = strings.Replace(s.uri, module, clients[0], 1)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	return server
}

// children returns the processes that a process has started.
func children(parent int) (pids []int) {
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent)) // gone, perhaps
	for field := range strings.FieldsSeq(string(list)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestTokenServerKilled kills what stands between a lot and its token: the
// connection's process, which the lot survives, and then all of the server, for
// which it stops with code 6 until there is another.
func TestTokenServerKilled(t *testing.T) {
	t.Parallel()
	const devices = 200
	s := newStation(newFactory(t, devices, sandbox.Config{}))
	direct := s.uri
	server := s.behindServer()
	args := func() []string { return s.lot("--keys", "token", "--workers", "8", "--in-flight", "4") }
	cmd, log := s.start(args(), "KEYMILL_KEYS_SESSIONS=2")
	for _, due := range []int{20, 50} {
		s.waitForDevices(due)
		pids := children(server.Process.Pid)
		if len(pids) == 0 {
			t.Fatalf("the server has no child to kill: %s", log)
		}
		if due == 50 {
			pids = append(pids, server.Process.Pid)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	if code := s.ended(cmd); code != exitHSM || !strings.Contains(log.String(), "hint: ") {
		t.Fatalf("exit %d, want %d and what to do: %s", code, exitHSM, log)
	}
	if n := countDevices(s.box); n < 50 || n == devices {
		t.Errorf("%d devices of %d were made", n, devices)
	}
	if err := os.Remove(s.path("p11.socket")); err != nil {
		t.Fatal(err)
	}
	s.uri = direct
	s.behindServer()
	if code, out := s.do(args()); code != 0 {
		t.Fatalf("with another server: exit %d: %s", code, out)
	}
	s.checkLot(devices)
	s.uri = direct
	if code, out := s.do([]string{"hsm", "gc", "--destroy", "--hsm", s.uri, "--ledger", s.ledger}); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	s.checkKeys(devices)
}
