package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"keymill/hsm"
	"keymill/pipeline"
)

// guardSecret refuses a file with a secret that everybody on this machine may
// read. What systemd provides is in order: it belongs to the unit, whatever its
// mode. A file that is missing is for its reader to complain about.
func (a *app) guardSecret(setting, path string) error {
	if path == "" || a.credential(path) {
		return nil
	}
	info, err := os.Stat(path)
	open := err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0
	if !open {
		return nil
	}
	return withCode(exitUsage, pipeline.WithHint(fmt.Errorf("%s: everybody can read the secret in %s", setting, path),
		"chmod 600 %s; if others were on this machine meanwhile, change the secret, too.", path))
}

// credential reports whether a file is one of the unit's credentials.
func (a *app) credential(path string) bool {
	dir := a.getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return false
	}
	inside, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(inside)
}

// credentialFile returns the path of a credential that the unit was given. An
// empty one is none: LoadCredential= insists on a file, filled or not. What
// cannot be looked at counts as given, so that its reader says what is wrong.
func (a *app) credentialFile(name string) (path string, given bool) {
	dir := a.getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", false
	}
	path = filepath.Join(dir, name)
	info, err := os.Stat(path)
	return path, err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// guardPIN does the same for the pin-source of a token's URI, which may be empty.
func (a *app) guardPIN(setting, uri string) error {
	if parsed, err := hsm.ParseURI(uri); err == nil { // else whoever opens the token says what is wrong
		path := strings.TrimPrefix(strings.TrimPrefix(parsed.PINSource, "file:"), "//")
		return a.guardSecret("pin-source in "+setting, path)
	}
	return nil
}

// guardSigningKey guards a signing key that is a file or in a token.
func (a *app) guardSigningKey(name string) error {
	if strings.HasPrefix(name, "pkcs11:") {
		return a.guardPIN("audit.signing_key", name)
	}
	return a.guardSecret("audit.signing_key", name)
}

// checkSecrets looks at every file with a secret that the configuration names,
// used by this run or not.
func (j *job) checkSecrets(context.Context) (string, error) {
	files := map[string]string{
		"server.token_file": j.cfg.Server.TokenFile, "server.password_file": j.cfg.Server.PasswordFile,
		"notify.secret_file": j.cfg.Notify.SecretFile, "telemetry.headers_file": j.cfg.Telemetry.HeadersFile,
	}
	for name, server := range j.cfg.Servers {
		files["servers."+name+".token_file"], files["servers."+name+".password_file"] = server.TokenFile, server.PasswordFile
	}
	for setting, path := range files {
		if err := j.app.guardSecret(setting, path); err != nil {
			return "", err
		}
	}
	if err := j.app.guardPIN("keys.hsm", j.cfg.Keys.HSM); err != nil {
		return "", err
	}
	if err := j.app.guardSigningKey(j.cfg.Audit.SigningKey); err != nil {
		return "", err
	}
	return "no file with a secret is open to everybody", nil
}
