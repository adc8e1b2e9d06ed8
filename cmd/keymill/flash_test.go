package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"keymill/pipeline/mender/sandbox"
)

// TestFlash writes a device's image to a loop device, and refuses to do it
// twice unless told.
func TestFlash(t *testing.T) {
	needRoot(t, "it sets up a loop device")
	needTools(t, "e2fsprogs", "debugfs")
	needTools(t, "mount", "losetup")
	f := newFactory(t, 2, sandbox.Config{})
	if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	card := f.path("card.img")
	if out, err := exec.Command("truncate", "-s", "80M", card).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	out, err := exec.Command("losetup", "--show", "-f", card).Output()
	if err != nil {
		t.Fatalf("losetup, as root: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", loop).Run() //nolint:errcheck // the folder goes anyway
	device := f.records()[1]
	flash := []string{"image", "flash", "lot", device.Identity.Name(), loop, "--ledger", f.ledger}
	if code, out, errs := f.call(flash...); code != 0 || !strings.Contains(out, "written and read back") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if err := checkData(t, card); err != nil {
		t.Error(err)
	}
	code, _, errs := f.call(flash...)
	if code != exitUsage || !strings.Contains(errs, "--again") {
		t.Errorf("a second time: exit %d: %s", code, errs)
	}
	if code, _, errs := f.call(append(flash, "--again")...); code != 0 {
		t.Errorf("--again: exit %d: %s", code, errs)
	}
	if code, _, errs := f.call("image", "flash", "lot", device.Identity.Name(), "/dev/null", "--ledger", f.ledger, "--again"); code != exitStorage {
		t.Errorf("to /dev/null: exit %d: %s", code, errs)
	}
}

// TestServe fetches an image that is on no disk, whole and in part.
func TestServe(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	f := newFactory(t, 2, sandbox.Config{})
	if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	device := f.records()[0].Identity.Name()
	if code, _, errs := f.call("image", "write", "lot", device, "-o", f.path("want.img"), "--ledger", f.ledger); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	want, err := os.ReadFile(f.path("want.img"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("serve-token", func(w io.Writer) error { _, err := io.WriteString(w, "s3cret\n"); return err })
	cmd, _ := f.process("image", "serve", "--ledger", f.ledger, "--serve-token-file", f.path("serve-token"))
	cmd.Stdout = nil
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url = strings.TrimSpace(url) + "/lot/" + device + ".img"
	status, body := fetch(t, url, "Bearer s3cret", "")
	if status != http.StatusOK || !bytes.Equal(body, want) {
		t.Errorf("whole: %d, %d bytes", status, len(body))
	}
	status, body = fetch(t, url, "Bearer s3cret", "bytes=45000000-45999999")
	if status != http.StatusPartialContent || !bytes.Equal(body, want[45000000:46000000]) {
		t.Errorf("in part: %d, %d bytes", status, len(body))
	}
	if status, _ := fetch(t, url, "Bearer wrong", ""); status != http.StatusUnauthorized {
		t.Errorf("with a wrong token: %d", status)
	}
	if status, _ := fetch(t, strings.Replace(url, device, "nobody", 1), "Bearer s3cret", ""); status != http.StatusNotFound {
		t.Errorf("of no device: %d", status)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if code, _, errs := f.call("image", "serve", "--ledger", f.ledger, "--listen", "0.0.0.0:0"); code != exitUsage || !strings.Contains(errs, "private keys") {
		t.Errorf("beyond loopback without TLS: exit %d: %s", code, errs)
	}
}

func fetch(t *testing.T, url, auth, span string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", auth)
	if span != "" {
		req.Header.Set("Range", span)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
