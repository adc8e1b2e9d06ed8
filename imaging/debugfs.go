package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tools runs e2fsprogs and its like with pinned time.
type tools struct {
	now time.Time
}

// run calls a program of the given Debian package with input on stdin.
func (t *tools) run(ctx context.Context, pkg, input, name string, args ...string) (stdout, stderr string, err error) {
	program, err := lookTool(name, pkg)
	if err != nil {
		return "", "", err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	seconds := strconv.FormatInt(t.now.Unix(), 10)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "E2FSPROGS_FAKE_TIME="+seconds, "E2FSCK_TIME="+seconds,
		"E2FSCK_CONFIG=/dev/null", "SOURCE_DATE_EPOCH="+seconds, "DEBUGFS_PAGER=__none__", "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), errs.String(), err
}

// lookTool finds a program also where only root's PATH leads.
func lookTool(name, pkg string) (string, error) {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if found, err := exec.LookPath(candidate); err == nil {
			return found, nil
		}
	}
	return "", refuse("Install the Debian package "+pkg+" (apt-get install "+pkg+").", "the program %s is missing", name)
}

const e2fsprogs = "e2fsprogs"

// ToolsMissing says which of e2fsprogs' programs, which templates are made with,
// is missing; nil if none is.
func ToolsMissing() error {
	for _, name := range []string{"debugfs", "e2fsck"} {
		if _, err := lookTool(name, e2fsprogs); err != nil {
			return err
		}
	}
	return nil
}

// debugfs runs commands on the file system in an image file. debugfs exits 0
// whatever happens, and goes on after an error: what it says on stderr counts.
func (t *tools) debugfs(ctx context.Context, image string, commands []string) error {
	_, stderr, err := t.run(ctx, e2fsprogs, strings.Join(commands, "\n")+"\n", "debugfs", "-w", "-f", "-", image)
	if err != nil {
		return fmt.Errorf("debugfs: %w%s", err, firstLine(stderr))
	}
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			if strings.Contains(line, "Could not allocate") {
				return refuse("Make room in the golden image: remove files from the partition, or make its file system larger.",
					"the partition has no room left: debugfs: %s", line)
			}
			return fmt.Errorf("debugfs: %s", line)
		}
	}
	return nil
}

// repair replays the journal and repairs what can be repaired without asking.
func (t *tools) repair(ctx context.Context, image string) error {
	out, stderr, err := t.run(ctx, e2fsprogs, "", "e2fsck", "-fp", image)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() <= 2 {
		err = nil // 1 and 2: repaired
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return err
	}
	return refuse("Repair the partition in the golden image with e2fsck -fy, look at what it says, and start again.",
		"the file system needs repair by hand: e2fsck -fp: %w%s", err, firstLine(givenUp(out, stderr)))
}

// givenUp returns what e2fsck -p says last before it gives up, which stderr tells:
// what it says before that, it has put right.
func givenUp(out, stderr string) string {
	if said := strings.TrimSpace(out); strings.Contains(stderr, "UNEXPECTED INCONSISTENCY") && said != "" {
		return said[strings.LastIndex(said, "\n")+1:]
	}
	return out + stderr
}

// clean requires that e2fsck finds nothing.
func (t *tools) clean(ctx context.Context, image string) error {
	out, stderr, err := t.run(ctx, e2fsprogs, "", "e2fsck", "-fn", image)
	if err != nil {
		return fmt.Errorf("e2fsck -fn does not accept the file system: %w%s", err, firstLine(out+stderr))
	}
	return nil
}

// firstLine returns what a program said, short enough for a message.
func firstLine(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "e2fsck 1.") || strings.HasPrefix(line, "debugfs 1.") || strings.HasPrefix(line, "Pass ") || strings.HasSuffix(line, "FIXED.") {
			continue
		}
		return ": " + line[:min(len(line), 300)]
	}
	return ""
}

// quote quotes an argument for debugfs, whose only special character within
// quotes is the quote; parsePlace admits none.
func quote(s string) string { return `"` + s + `"` }

// writeCommands puts a host file at an absolute path without symbolic links,
// whose folder exists. The path of `write` is a name in the current folder.
func writeCommands(host, name string, t *Target) []string {
	commands := []string{"cd " + quote(path.Dir(name)), "write " + quote(host) + " " + quote(path.Base(name))}
	return append(commands, ownCommands(name, modeRegular|t.Mode, t.UID, t.GID)...)
}

// mkdirCommands makes a directory. Like `symlink`, `mkdir /name` would make it in
// the current folder, not in the root.
func mkdirCommands(name string) []string {
	return append([]string{"cd " + quote(path.Dir(name)), "mkdir " + quote(path.Base(name))}, ownCommands(name, modeDir|0o755, 0, 0)...)
}

// ownCommands sets mode and owner, which debugfs else takes from the host file.
func ownCommands(name string, mode uint16, uid, gid uint32) []string {
	set := func(field, value string) string { return "sif " + quote(name) + " " + field + " " + value }
	return []string{
		set("mode", fmt.Sprintf("0%o", mode)),
		set("uid", strconv.FormatUint(uint64(uid), 10)),
		set("gid", strconv.FormatUint(uint64(gid), 10)),
	}
}

// hostFiles are what debugfs reads for one target.
type hostFiles struct {
	dir   string
	index int
}

func (h hostFiles) write(what string, content []byte) (string, error) {
	name := filepath.Join(h.dir, strconv.Itoa(h.index)+"-"+what)
	if strings.ContainsFunc(name, notPlain) {
		return "", fmt.Errorf("the working folder's name %q cannot be told to debugfs", h.dir)
	}
	return name, os.WriteFile(name, content, 0o600)
}
