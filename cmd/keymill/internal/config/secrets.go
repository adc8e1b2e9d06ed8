package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/pipeline"
)

// GuardSecret refuses a file with a secret that everybody on this machine may
// read. What systemd provides is in order: it belongs to the unit, whatever its
// mode. A file that is missing is for its reader to complain about.
func (e Environ) GuardSecret(setting, path string) error {
	if path == "" || e.credential(path) {
		return nil
	}
	info, err := os.Stat(path)
	open := err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0
	if !open {
		return nil
	}
	return fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("%s: everybody can read the secret in %s", setting, path),
		"chmod 600 %s; if others were on this machine meanwhile, change the secret, too.", path))
}

// credential reports whether a file is one of the unit's credentials.
func (e Environ) credential(path string) bool {
	dir := e.Get("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return false
	}
	inside, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(inside)
}

// CredentialFile returns the path of a credential that the unit was given. An
// empty one is none: LoadCredential= insists on a file, filled or not. What
// cannot be looked at counts as given, so that its reader says what is wrong.
func (e Environ) CredentialFile(name string) (path string, given bool) {
	dir := e.Get("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", false
	}
	path = filepath.Join(dir, name)
	info, err := os.Stat(path)
	return path, err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// GuardPIN does the same for the pin-source of a token's URI, which may be empty.
func (e Environ) GuardPIN(setting, uri string) error {
	if parsed, err := hsm.ParseURI(uri); err == nil { // else whoever opens the token says what is wrong
		path := strings.TrimPrefix(strings.TrimPrefix(parsed.PINSource, "file:"), "//")
		return e.GuardSecret("pin-source in "+setting, path)
	}
	return nil
}

// GuardSigningKey guards a signing key that is a file or in a token.
func (e Environ) GuardSigningKey(name string) error {
	if strings.HasPrefix(name, "pkcs11:") {
		return e.GuardPIN("audit.signing_key", name)
	}
	return e.GuardSecret("audit.signing_key", name)
}
