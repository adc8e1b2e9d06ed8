package station

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline/mender"
)

// TestOpenSecretsAreRefused, systemd's excepted.
func TestOpenSecretsAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("secret"), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open, group := file("open", 0o644), file("group", 0o640)
	o := &Options{}
	for name, check := range map[string]func(string) error{
		"token": func(p string) error { _, err := o.tokenSource(config.ServerConfig{TokenFile: p}); return err },
		"password": func(p string) error {
			_, err := o.tokenSource(config.ServerConfig{User: "u", PasswordFile: p})
			return err
		},
		"signing key": o.Settings.Env.GuardSigningKey,
		"pin":         func(p string) error { return o.Settings.Env.GuardPIN("keys.hsm", "pkcs11:token=x?pin-source=file:"+p) },
	} {
		if err := check(open); fault.KindOf(err) != fault.Usage || err == nil || !strings.Contains(fault.Hint(err), "chmod 600 "+open) {
			t.Errorf("%s: %v, hint %q", name, err, fault.Hint(err))
		}
		if err := check(group); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.Settings.Env = []string{"CREDENTIALS_DIRECTORY=" + dir}
	if err := o.Settings.Env.GuardSecret("server.token_file", open); err != nil {
		t.Error(err)
	}
}

// TestEmptyCredential: the file that LoadCredential= insists on is no secret
// before somebody fills it; then other ways to give one count.
func TestEmptyCredential(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mender-token")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := &Options{Settings: config.Layers{Env: []string{"CREDENTIALS_DIRECTORY=" + dir}}}
	if _, err := o.tokenSource(config.ServerConfig{}); err == nil || !strings.Contains(fault.Hint(err), "LoadCredential=") {
		t.Errorf("%v, hint %q", err, fault.Hint(err))
	}
	if _, err := (&Options{Settings: config.Layers{Env: append(o.Settings.Env, "KEYMILL_TOKEN=x")}}).tokenSource(config.ServerConfig{}); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if source, err := o.tokenSource(config.ServerConfig{}); err != nil || source != mender.TokenFile(path) {
		t.Errorf("%v, %v", source, err)
	}
}
