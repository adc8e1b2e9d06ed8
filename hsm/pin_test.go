package hsm

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func writeFile(t testing.TB, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPINFromWhereverItIs(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("4321\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	inherited, err := unix.Dup(int(r.Fd())) // r's own would be closed twice, the second time under somebody else
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	path := writeFile(t, "4321\r\n", 0o640)
	asked := Config{PIN: func(context.Context, string) ([]byte, error) { return []byte("4321"), nil }}
	for name, test := range map[string]struct {
		cfg Config
		uri string
	}{
		"file":       {uri: "pkcs11:?pin-source=" + path},
		"file URI":   {uri: "pkcs11:?pin-source=file:" + path},
		"file://":    {uri: "pkcs11:?pin-source=file://" + path},
		"value":      {uri: "pkcs11:?pin-value=4321"},
		"Windows":    {uri: "pkcs11:?pin-source=" + writeFile(t, "\xef\xbb\xbf4321\r\n", 0o600)},
		"descriptor": {uri: "pkcs11:?pin-source=fd:" + strconv.Itoa(inherited)},
		"asked":      {cfg: asked, uri: "pkcs11:"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := ParseURI(test.uri)
			if err != nil {
				t.Fatal(err)
			}
			if pin, err := test.cfg.pin(t.Context(), u, ""); string(pin) != "4321" || err != nil {
				t.Errorf("%q, %v", pin, err)
			}
		})
	}
	if pin, err := (&Config{}).pin(t.Context(), &URI{}, ""); pin != nil || err != nil {
		t.Errorf("none given: %q, %v", pin, err)
	}
}

func TestPINRefusals(t *testing.T) {
	for name, test := range map[string]struct{ source, want string }{
		"missing":         {filepath.Join(t.TempDir(), "none"), "no such file"},
		"empty":           {writeFile(t, "\n", 0o600), "0 bytes"},
		"only a mark":     {writeFile(t, "\xef\xbb\xbf\r\n", 0o600), "0 bytes"},
		"a folder":        {t.TempDir(), "directory"},
		"too long":        {writeFile(t, strings.Repeat("1", maxPIN+1), 0o600), "bytes"},
		"world-readable":  {writeFile(t, "4321", 0o604), "everybody"},
		"command":         {"|/bin/echo 4321", "not run"},
		"remote":          {"https://example.com/pin", "not run"},
		"bad descriptor":  {"fd:x", "descriptor"},
		"no descriptor":   {"fd:999", "descriptor"},
		"negative number": {"fd:-1", "descriptor"},
	} {
		t.Run(name, func(t *testing.T) {
			pin, err := pinFromSource(t.Context(), test.source)
			if err == nil || pin != nil {
				t.Fatalf("%q, %v", pin, err)
			}
			if !strings.Contains(err.Error(), test.want) || Hint(err) == "" && !strings.Contains(test.source, "fd:") {
				t.Errorf("got %v (hint %q), want %q", err, Hint(err), test.want)
			}
			if strings.Contains(err.Error(), "4321") {
				t.Error("the error shows the PIN")
			}
		})
	}
}
