package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
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
	if code != exitUsage || !strings.Contains(errs, "unit scrap") {
		t.Errorf("a second time: exit %d: %s", code, errs)
	}
	scrap := []string{"unit", "scrap", "lot", device.Identity.Name(), "--ledger", f.ledger}
	if code, _, errs := f.call(scrap...); code != exitUsage || !strings.Contains(errs, "--reason") {
		t.Errorf("scrapped without a reason: exit %d: %s", code, errs)
	}
	if code, _, errs := f.call(append(scrap, "--reason", "trial")...); code != 0 {
		t.Errorf("scrap: exit %d: %s", code, errs)
	}
	if code, _, errs := f.call(flash...); code != exitUsage || !strings.Contains(errs, "--overwrite") {
		t.Errorf("onto a medium with an image: exit %d: %s", code, errs)
	}
	if code, _, errs := f.call(append(flash, "--overwrite")...); code != 0 {
		t.Errorf("after scrapping: exit %d: %s", code, errs)
	}
	if code, _, errs := f.call("image", "flash", "lot", device.Identity.Name(), "/dev/null", "--ledger", f.ledger); code != exitStorage {
		t.Errorf("to /dev/null: exit %d: %s", code, errs)
	}
	_, out2, _ := f.call("unit", "list", "lot", "--ledger", f.ledger, "--json")
	var list []struct {
		State, Medium, Reason string
		Unit, Row             int
	}
	if err := json.Unmarshal([]byte(out2), &list); err != nil || len(list) != 2 || list[0].State != "scrapped" || list[0].Reason != "trial" ||
		list[1].State != "verified" || list[1].Unit != 2 || list[1].Row != device.Row || !strings.Contains(list[1].Medium, loop) {
		t.Errorf("%v: %s", err, out2)
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
	if code, _, errs := f.call("unit", "scrap", "lot", device, "--reason", "to compare with", "--ledger", f.ledger); code != 0 {
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
	status, body := fetch(t, url, "Bearer s3cret", "bytes=0-99")
	if status != http.StatusPartialContent || !bytes.Equal(body, want[:100]) {
		t.Errorf("the beginning: %d, %d bytes", status, len(body))
	}
	if _, out, _ := f.call("unit", "list", "lot", "--ledger", f.ledger); strings.Contains(out, "writing") {
		t.Errorf("a range without the device's own bytes made a unit: %s", out)
	}
	status, body = fetch(t, url, "Bearer s3cret", "")
	if status != http.StatusOK || !bytes.Equal(body, want) {
		t.Errorf("whole: %d, %d bytes", status, len(body))
	}
	status, body = fetch(t, url, "Bearer s3cret", "bytes=44000000-44999999")
	if status != http.StatusPartialContent || !bytes.Equal(body, want[44000000:45000000]) {
		t.Errorf("in part: %d, %d bytes", status, len(body))
	}
	if status, body := fetch(t, url, "Bearer s3cret", ""); status != http.StatusConflict || !bytes.Contains(body, []byte("unit scrap")) {
		t.Errorf("a second time: %d: %s", status, body)
	}
	if _, out, _ := f.call("unit", "show", "lot", device, "--ledger", f.ledger); !strings.Contains(out, "delivered") {
		t.Errorf("%s", out)
	}
	if code, _, errs := f.call("image", "write", "lot", device, "-o", f.path("again.img"), "--ledger", f.ledger); code != exitUsage {
		t.Errorf("written after it was served: exit %d: %s", code, errs)
	}
	f.write("report.csv", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "device,result,medium,time\n%s,ok,emmc 0815,2026-11-30T10:00:00Z\nnobody,ok,,\n%s,ok,,\n", device, device)
		return err
	})
	if code, _, errs := f.call("unit", "import", "lot", f.path("report.csv"), "--ledger", f.ledger); code != exitManifest ||
		!strings.Contains(errs, "line 3: device \"nobody\"") || !strings.Contains(errs, "in line 2 already") {
		t.Errorf("a wrong report: exit %d: %s", code, errs)
	}
	f.write("report.csv", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "device,result,medium,time\n%s,ok,emmc 0815,\n", device)
		return err
	})
	if code, out, errs := f.call("unit", "import", "lot", f.path("report.csv"), "--ledger", f.ledger); code != 0 || !strings.Contains(out, "1 units verified") {
		t.Errorf("exit %d: %s%s", code, out, errs)
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
