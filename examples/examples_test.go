// Package examples runs the examples, as people do.
package examples

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// debian says which package has a tool that the examples need.
var debian = map[string]string{
	"bash": "bash", "debugfs": "e2fsprogs", "jq": "jq", "openssl": "openssl", "pkcs11-tool": "opensc", "sfdisk": "fdisk", "softhsm2-util": "softhsm2",
}

// TestExamples runs each example's run.sh, which ends with 0 only if everything
// came out as it should, and makes sure that it prints the commands that its
// README shows.
func TestExamples(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for tool, pkg := range debian {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing; .ci/setup installs Debian's %s", tool, pkg)
		}
		t.Skipf("%s is missing; install Debian's %s", tool, pkg)
	}
	keymill := filepath.Join(t.TempDir(), "keymill")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", keymill, "../cmd/keymill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("KEYMILL", keymill)
	scripts, err := filepath.Glob("*/run.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, script := range scripts {
		if own, err := filepath.Glob(filepath.Join(filepath.Dir(script), "*_test.go")); err != nil || len(own) > 0 {
			continue // it has a test of its own, which asks for more
		}
		t.Run(filepath.Dir(script), func(t *testing.T) {
			out := runExample(t, script)
			for _, command := range shownBeside(t, filepath.Join(filepath.Dir(script), "README.md")) {
				if !strings.Contains(out, "$ "+command) {
					t.Errorf("README.md shows %q, which run.sh does not do", command)
				}
			}
		})
	}
}

// runExample returns what an example prints. Its own trap ends what it started.
func runExample(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", script)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", script, err, out.String(), errs.String())
	}
	return out.String()
}

// shownBeside returns the first two words of the commands in the README's
// transcripts of run.sh: what follows (folders, loop devices) is each run's own.
func shownBeside(t *testing.T, readme string) []string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for i, block := range strings.Split(string(text), "```") {
		if i%2 == 0 || !strings.Contains(block, "run.sh") {
			continue
		}
		for line := range strings.Lines(block) {
			command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ ")
			if words := strings.Fields(command); ok && !strings.Contains(command, "run.sh") {
				commands = append(commands, strings.Join(words[:min(len(words), 2)], " "))
			}
		}
	}
	return commands
}
