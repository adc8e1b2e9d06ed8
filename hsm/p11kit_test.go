//go:build cgo

package hsm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// newRemote puts a SoftHSM behind a p11-kit server, which serves every
// connection by a child of its own. It returns the server, too.
func newRemote(t testing.TB) (trialToken, *exec.Cmd) {
	t.Helper()
	tool := needTool(t, "p11-kit", "p11-kit")
	needFile(t, "p11-kit", "/usr/libexec/p11-kit/p11-kit-server")
	client := needFile(t, "p11-kit-modules", "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so")
	token := newSoftHSM(t)
	u, err := ParseURI(token.uri)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(token.dir, "socket")
	server := exec.Command(tool, "server", "-f", "-n", socket, "--provider", u.ModulePath, "pkcs11:token=factory")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	eventually(t, func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	t.Setenv("P11_KIT_SERVER_ADDRESS", "unix:path="+socket)
	token.uri = strings.Replace(token.uri, u.ModulePath, client, 1)
	return token, server
}

// children returns the processes that a process has started.
func children(t testing.TB, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		content, _ := os.ReadFile(path) // gone by now, perhaps
		_, after, found := strings.Cut(string(content), ") ")
		if fields := strings.Fields(after); found && fields[0] != "Z" && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// p11-kit 0.24 passes no mechanism on by which SoftHSM wraps keys: ModeHSM is
// refused there. Keys that stay are what such a server is for.
func TestRemoteServerKilled(t *testing.T) {
	token, server := newRemote(t)
	_, err := Open(t.Context(), ModeHSM, ECDSAP256, token.config(t))
	wantRefused(t, err, "--keys token")
	source, err := Open(t.Context(), ModeToken, ECDSAP256, token.config(t))
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, Hint(err))
	}
	defer source.Close()
	for range 3 {
		for range 3 {
			if _, _, err := source.Generate(t.Context(), "device"); err != nil {
				t.Fatal(err)
			}
		}
		pids := children(t, server.Process.Pid)
		if len(pids) == 0 {
			t.Fatal("the server has no child to kill")
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, _, err := source.Generate(t.Context(), "device"); err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(children(t, server.Process.Pid), server.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		_, _, err := source.Generate(t.Context(), "device")
		wantGone(t, err, "hsm list")
		if err != nil && strings.Contains(err.Error(), "4321") {
			t.Error("the error shows the PIN")
		}
	}
}
