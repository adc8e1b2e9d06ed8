package main

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"strings"
	"testing"

	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline/mender/sandbox"
)

// TestWorkOrders: a station makes nothing outside the order that it was given.
func TestWorkOrders(t *testing.T) {
	t.Parallel()
	f := newFactory(t, 6, sandbox.Config{})
	owner := f.ecKey("owner.pem")
	spki, err := x509.MarshalPKIXPublicKey(owner.Public())
	if err != nil {
		t.Fatal(err)
	}
	f.write("owner.pub", func(w io.Writer) error { return pem.Encode(w, &pem.Block{Type: "PUBLIC KEY", Bytes: spki}) })
	golden, err := files.SHA256(t.Context(), f.path("golden.sdimg"))
	if err != nil {
		t.Fatal(err)
	}
	order := func(name string, more ...string) string {
		t.Helper()
		code, out, errs := f.call(append([]string{"order", "new", "-o", f.path(name), "--key", f.path("owner.pem"), "--order", name, "--until", "2099-01-01"}, more...)...)
		if code != 0 {
			t.Fatalf("order new: exit %d: %s%s", code, out, errs)
		}
		return f.path(name)
	}
	config := func(orderFile string) string {
		f.write("keymill.yaml", func(w io.Writer) error {
			_, err := io.WriteString(w, "audit: {station: line-3, require_work_order: true, work_order_key: '"+f.path("owner.pub")+"', work_order_file: '"+orderFile+"'}\n")
			return err
		})
		return f.path("keymill.yaml")
	}
	run := func(lot, orderFile string) (int, string) {
		args := f.args("--format", "pack", "--config", config(orderFile))
		args[3] = lot
		args[9] = f.path("out-" + lot)
		code, _, errs := f.call(args...)
		return code, errs
	}
	good := order("good", "--quantity", "10", "--golden", golden, "--station", "line-3")
	edited, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	f.write("edited", func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Replace(string(edited), `"payload":"ey`, `"payload":"fy`, 1))
		return err
	})
	for name, test := range map[string]struct {
		file string
		code int
		says string
	}{
		"none":          {"", exitUsage, "without a work order"},
		"edited":        {f.path("edited"), exitUsage, "owner's key"},
		"quantity":      {order("few", "--quantity", "5"), exitManifest, "allows 5 devices"},
		"other golden":  {order("other", "--quantity", "10", "--golden", strings.Repeat("00", 32)), exitManifest, "another golden image"},
		"other station": {order("elsewhere", "--quantity", "10", "--station", "line-4"), exitManifest, "not for line-3"},
		"other lot":     {order("named", "--quantity", "10", "--lot", "lot-x"), exitManifest, "not for lot"},
		"serials":       {order("serials", "--quantity", "10", "--serials", "A-B"), exitManifest, "serial number"},
		"MACs":          {order("macs", "--quantity", "10", "--macs", "0a:00:00:00:00:00-0a:00:00:00:00:01"), exitManifest, "MAC address"},
	} {
		if code, errs := run("lot", test.file); code != test.code || !strings.Contains(errs, test.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s", name, code, test.code, test.says, errs)
		}
	}
	if n := countDevices(f.box); n != 0 {
		t.Fatalf("%d devices were made", n)
	}
	if code, errs := run("lot", good); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	// The same quantity again, in another lot and after the first was taken back:
	// released devices stay used.
	if code, out, errs := f.call("undo", "lot", "--yes", "--ledger", f.ledger, "--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt"), "--config", config(good)); code != 0 {
		t.Fatalf("undo: exit %d: %s%s", code, out, errs)
	}
	if code, errs := run("lot-2", good); code != exitManifest || !strings.Contains(errs, "6 are used") {
		t.Errorf("replayed: exit %d: %s", code, errs)
	}
	code, out, errs := f.call("order", "show", good, "--key", f.path("owner.pub"))
	if code != 0 || !strings.Contains(out, `"quantity": 10`) {
		t.Errorf("order show: exit %d: %s%s", code, out, errs)
	}
}
