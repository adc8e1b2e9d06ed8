package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keymill/imaging"
	"keymill/pipeline/mender/sandbox"
)

// TestDocumentedCommands runs every command that README.md and CONTRIBUTING.md
// show, in their order, as a newcomer would. Make's targets are only looked up:
// they run these tests.
func TestDocumentedCommands(t *testing.T) {
	needTools(t, "e2fsprogs", "e2fsck", "debugfs")
	needTools(t, "fdisk", "sfdisk")
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	f := newFactory(t, 1, sandbox.Config{})
	shell := newcomer(t, f)
	for _, doc := range []string{"../../README.md", "../../CONTRIBUTING.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range shownCommands(string(text)) {
			if target, ok := strings.CutPrefix(command, "make "); ok {
				name, _, _ := strings.Cut(target, " ")
				if !regexp.MustCompile(`(?m)^` + name + `:`).Match(makefile) {
					t.Errorf("%s: make has no target %s", doc, name)
				}
				continue
			}
			if !elsewhere(command) {
				shell(command)
			}
		}
	}
}

// elsewhere reports whether .ci/newcomer alone runs a command: these tests bring
// a program, a server and Debian's tools of their own.
func elsewhere(command string) bool {
	return strings.HasPrefix(command, "sudo ") || strings.HasPrefix(command, "export ") || strings.HasSuffix(command, " &")
}

// shownCommands returns the lines that begin with "$ " in ```console blocks.
func shownCommands(text string) []string {
	var commands []string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			commands = append(commands, strings.TrimPrefix(line, "$ "))
		}
	}
	return commands
}

// newcomer returns a shell in an empty folder on which keymill is in the path
// and the server's settings come from the environment.
func newcomer(t *testing.T, f *factory) func(command string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(exe, filepath.Join(bin, "keymill")); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), asMain+"=1", "PATH="+bin+":"+os.Getenv("PATH"),
		"KEYMILL_SERVER_URL="+f.server, "KEYMILL_SERVER_CA_FILE="+f.path("sb", "ca.crt"), "KEYMILL_SERVER_TOKEN_FILE="+f.path("sb", "token"))
	return func(command string) {
		if folder, ok := strings.CutPrefix(command, "cd "); ok {
			dir = filepath.Join(dir, folder)
			return
		}
		cmd := exec.Command("sh", "-ec", command)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("$ %s\n%s%v", command, out, err)
		}
	}
}

// TestDoctorLooksWhereRootsPathLeads: Debian keeps e2fsprogs in /usr/sbin, which
// an ordinary user's PATH lacks; the line finds it there, and so must doctor.
func TestDoctorLooksWhereRootsPathLeads(t *testing.T) {
	needTools(t, "e2fsprogs", "e2fsck", "debugfs")
	t.Setenv("PATH", t.TempDir())
	if err := imaging.ToolsMissing(); err != nil {
		t.Error(err)
	}
}
