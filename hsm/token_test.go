//go:build cgo

package hsm

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// trialToken is a token that a test set up for itself.
type trialToken struct {
	uri string
	dir string
	env map[string]string
	// flush frees what the module leaves in the TPM's few slots. A real one sits
	// behind the kernel's resource manager, which does that. nil for other tokens.
	flush func()
}

func (token trialToken) flushed() {
	if token.flush != nil {
		token.flush()
	}
}

// newToken runs testdata/token.sh. The token's environment is set until the
// test ends, so that tests with tokens can't run in parallel.
func newToken(t testing.TB, kind string, extraEnv ...string) trialToken {
	t.Helper()
	dir, err := os.MkdirTemp("", "keymill-token-") // t.TempDir may have characters that SoftHSM's configuration can't
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	token := trialToken{dir: dir, env: map[string]string{}}
	cmd := exec.Command("testdata/token.sh", kind, token.dir)
	cmd.Env = append(os.Environ(), extraEnv...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("token.sh %s: %v\n%s", kind, err, stderr.Bytes())
	}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "URI" {
			token.uri = value
			continue
		}
		token.env[name] = value
		t.Setenv(name, value)
	}
	return token
}

func newSoftHSM(t testing.TB) trialToken {
	t.Helper()
	needTool(t, "softhsm2-util", "softhsm2")
	return newToken(t, "softhsm")
}

func newNSS(t testing.TB) trialToken {
	t.Helper()
	needTool(t, "certutil", "libnss3-tools")
	needFile(t, "libnss3", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so")
	return newToken(t, "nss")
}

// newTPM starts a software TPM for the time of the test.
func newTPM(t testing.TB) trialToken {
	t.Helper()
	needTool(t, "pkcs11-tool", "opensc")
	swtpm := needTool(t, "swtpm", "swtpm")
	needFile(t, "libtpm2-pkcs11-1", "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so", "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so")
	state := t.TempDir()
	port := freePorts(t)
	cmd := exec.Command(swtpm, "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--server", fmt.Sprintf("type=tcp,bindaddr=127.0.0.1,port=%d", port),
		"--ctrl", fmt.Sprintf("type=tcp,bindaddr=127.0.0.1,port=%d", port+1), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	tcti := fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port)
	token := newToken(t, "tpm", "TCTI="+tcti)
	flushcontext := needTool(t, "tpm2_flushcontext", "tpm2-tools")
	token.flush = func() {
		if out, err := exec.Command(flushcontext, "-T", tcti, "-t").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return token
}

// freePorts returns a port that is free together with its successor, which is
// where the TPM tools expect the control channel.
func freePorts(t testing.TB) int {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := first.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		first.Close()
		if err == nil {
			second.Close()
			return port
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}

// eventually polls for a condition.
func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("gave up waiting")
		case <-tick.C:
		}
	}
}

func (token trialToken) config(t testing.TB) Config {
	t.Helper()
	token.flushed()
	journal, err := OpenJournal(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { journal.Close() })
	return Config{URI: token.uri, Journal: journal}
}

// objects counts what lies in the token for good.
func (token trialToken) objects(t testing.TB) int {
	t.Helper()
	token.flushed()
	cfg := Config{URI: token.uri}
	p, err := openPool(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	n, err := use(t.Context(), p, (*session).countObjects)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mustOpen opens a source that is closed when the test ends.
func mustOpen(t testing.TB, mode Mode, alg Algorithm, cfg Config) Source {
	t.Helper()
	source, err := Open(t.Context(), mode, alg, cfg)
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, Hint(err))
	}
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return source
}
