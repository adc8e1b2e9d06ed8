package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDebianPackage: built twice, it has the same bytes; dpkg installs it, what
// it installs works, and purging it leaves nothing but the ledger.
func TestDebianPackage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program twice")
	}
	needTools(t, "dpkg jq binutils systemd", "dpkg", "dpkg-deb", "jq", "objdump", "systemd-sysusers")
	t.Parallel()
	first, second := buildPackage(t), buildPackage(t)
	if a, b := readAll(t, first), readAll(t, second); !bytes.Equal(a, b) {
		t.Fatal("two builds of the same source differ")
	}

	root := t.TempDir()
	if os.Geteuid() != 0 {
		output(t, "dpkg-deb", "-x", first, root)
		checkInstalled(t, root, first)
		return
	}
	for _, dir := range []string{"etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"status", "available"} {
		if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg", file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dpkg := []string{"--root=" + root, "--force-script-chrootless", "--force-depends", "--log=/dev/null"}
	output(t, "dpkg", append(dpkg, "-i", first)...)
	checkInstalled(t, root, first)
	if changed := output(t, "dpkg", append(dpkg, "--verify", "keymill")...); changed != "" {
		t.Errorf("dpkg --verify: %s", changed)
	}
	if users := string(readAll(t, filepath.Join(root, "etc/passwd"))); !strings.Contains(users, "keymill:") {
		t.Errorf("no user was made: %s", users)
	}
	if info, err := os.Stat(filepath.Join(root, "var/lib/keymill/in")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the drop folder: %v, %v", info, err)
	}
	for _, secret := range []string{"mender-token", "webhook-secret", "hsm-pin"} {
		info, err := os.Stat(filepath.Join(root, "etc/keymill", secret))
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 0 {
			t.Errorf("%s: %v, %v", secret, info, err)
		}
	}
	output(t, "dpkg", append(dpkg, "--purge", "keymill")...)
	if _, err := os.Stat(filepath.Join(root, "etc/keymill")); !os.IsNotExist(err) {
		t.Errorf("purging leaves /etc/keymill: %v", err)
	}
}

func buildPackage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "../../.ci/package", dir)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "keymill_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %v, %v", found, err)
	}
	return found[0]
}

// checkInstalled looks at what a package put into root, and runs the program
// from there.
func checkInstalled(t *testing.T, root, deb string) {
	t.Helper()
	program := filepath.Join(root, "usr/bin/keymill")
	version := strings.Split(filepath.Base(deb), "_")[1]
	if got := output(t, program, "version"); !strings.HasPrefix(got, "keymill "+version+" ") {
		t.Errorf("version: %s", got)
	}
	config := filepath.Join(root, "etc/keymill/keymill.yaml")
	if got := output(t, program, "config", "--config", config); !strings.Contains(got, "image.golden: golden.sdimg") {
		t.Errorf("config: %s", got)
	}
	for _, path := range []string{
		"usr/lib/systemd/system/keymill-batch.service", "usr/lib/systemd/system/keymill-batch.timer",
		"usr/lib/systemd/system/keymill-worker.service", "usr/lib/systemd/system/keymill-upkeep.service", "usr/lib/systemd/system/keymill-upkeep.timer",
		"usr/lib/systemd/system/keymill-.service.d/station.conf", "usr/lib/sysusers.d/keymill.conf", "usr/lib/tmpfiles.d/keymill.conf",
		"usr/share/man/man1/keymill.1.gz", "usr/share/man/man1/keymill-batch.1.gz", "usr/share/man/man8/keymill-station.8.gz", "usr/share/keymill/keymill.schema.json",
		"usr/share/bash-completion/completions/keymill", "usr/share/zsh/vendor-completions/_keymill", "usr/share/fish/vendor_completions.d/keymill.fish",
		"usr/share/doc/keymill/copyright", "usr/share/doc/keymill/changelog.gz", "usr/share/doc/keymill/README.Debian",
	} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if out := output(t, "bash", "-n", filepath.Join(root, "usr/share/bash-completion/completions/keymill")); out != "" {
		t.Errorf("completion: %s", out)
	}

	var sbom struct {
		Format     string `json:"bomFormat"`
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(readAll(t, filepath.Join(root, "usr/share/doc/keymill/sbom.cdx.json")), &sbom); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, c := range sbom.Components {
		listed[c.Name] = c.Version != ""
	}
	if sbom.Format != "CycloneDX" || !listed["stdlib"] || !listed["modernc.org/sqlite"] || !listed["github.com/spf13/cobra"] {
		t.Errorf("the SBOM lists %v", sbom.Components)
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
