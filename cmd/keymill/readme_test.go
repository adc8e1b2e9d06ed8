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
			shell(command)
		}
	}
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

// newcomer returns a shell in an empty folder on which keymill is in the path,
// the server's settings come from the environment, and the folder that init
// makes is filled as the text says.
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
		if folder, ok := strings.CutPrefix(command, "keymill init "); ok {
			fillIn(t, filepath.Join(dir, folder))
		}
	}
}

// fillIn does what README asks of the reader after init.
func fillIn(t *testing.T, dir string) {
	t.Helper()
	files := map[string]string{
		"manifest.csv": "mac,serial\nAC:DE:48:00:01:01,SN0101\nAC:DE:48:00:01:02,SN0102\nAC:DE:48:00:01:03,SN0103\n",
		"more.csv":     "mac,serial\nAC:DE:48:00:00:01,SN0001\nAC:DE:48:00:00:02,SN0002\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := imaging.Sample(t.Context(), filepath.Join(dir, "golden.sdimg"), imaging.SampleOptions{}); err != nil {
		t.Fatal(err)
	}
}
