package imaging

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// TargetKind says what is put at a path.
type TargetKind uint8

// The kinds.
const (
	TargetFile      TargetKind = iota // a regular file; replaces a file or symbolic link
	TargetDirectory                   // a directory; an existing one gets mode and owner
	TargetSymlink                     // a symbolic link to Target.Link
)

// Target is one thing that is put into the image.
type Target struct {
	// Path is where the file lies. /data/mender/mender-agent.pem is on the data
	// partition, whose mount point is /data; partition:2:/etc/x is the file
	// /etc/x on partition number 2. Missing directories are made, mode 0755.
	Path string
	Kind TargetKind
	// Mode holds the permission bits with setuid, setgid and sticky; 0 means
	// 0600 for files and 0755 for directories. FAT has no modes and owners.
	Mode uint16
	// UID and GID own it.
	UID, GID uint32
	// Fixed is the content that all devices get. nil: each device has its own.
	Fixed []byte
	// Link is where a symbolic link leads.
	Link string
	// XAttrs are extended attributes by name, such as "security.selinux", whose
	// value ends in a zero byte.
	XAttrs map[string]string
}

// ownContent tells whether each device has a content of its own here.
func (t *Target) ownContent() bool { return t.Kind == TargetFile && t.Fixed == nil }

// check refuses what contradicts itself, and fills in the default mode.
func (t *Target) check() error {
	switch {
	case t.Kind > TargetSymlink:
		return fmt.Errorf("%s: target kind %d is unknown", t.Path, t.Kind)
	case t.Mode > 0o7777:
		return fmt.Errorf("%s: mode %o has more than permission bits", t.Path, t.Mode)
	case t.Kind != TargetFile && t.Fixed != nil:
		return fmt.Errorf("%s: only a file has content", t.Path)
	case (t.Kind == TargetSymlink) != (t.Link != ""):
		return fmt.Errorf("%s: a symbolic link, and nothing else, leads somewhere", t.Path)
	}
	for name := range t.XAttrs {
		if strings.ContainsFunc(name, notPlain) || !strings.Contains(name, ".") {
			return refuse("Write it like security.selinux.", "%s: the attribute's name %q cannot be used", t.Path, name)
		}
	}
	if strings.ContainsFunc(t.Link, notPlain) {
		return fmt.Errorf("%s: the link's target %q cannot be used", t.Path, t.Link)
	}
	if t.Mode == 0 && t.Kind == TargetFile {
		t.Mode = defaultMode
	}
	if t.Mode == 0 && t.Kind == TargetDirectory {
		t.Mode = 0o755
	}
	if t.Kind == TargetSymlink {
		t.Mode = 0o777
	}
	return nil
}

// notPlain is true for what would mean something else to debugfs.
func notPlain(r rune) bool { return unicode.IsControl(r) || r == '"' || r == unicode.ReplacementChar }

// dataMount is where Mender's images mount the data partition.
const dataMount = "/data"

// defaultMode is a private key's mode.
const defaultMode = 0o600

// ParseMode reads permission bits in octal: "0600" and "600" are the same.
// mender-artifact reads -m 600 as decimal, which gives mode 0130.
func ParseMode(s string) (uint16, error) {
	const remedy = "Write the mode in octal, such as \"0600\"."
	mode, err := strconv.ParseUint(s, 8, 16)
	if err != nil {
		return 0, refuse(remedy, "mode %q is not an octal number", s)
	}
	if mode > 0o7777 {
		return 0, refuse(remedy, "mode %q has more than permission bits", s)
	}
	return uint16(mode), nil
}

// place is a target's address: a partition and a clean absolute path in it.
type place struct {
	partition int // 0: the data partition
	path      string
}

// maxName is how many bytes a name has at most, in ext4 as in any file system of
// Linux.
const maxName = 255

// parsePlace reads a target's path.
func parsePlace(target string) (place, error) {
	const remedy = "Write /data/.. for the data partition, or partition:N:/.. for partition N."
	if strings.ContainsFunc(target, notPlain) {
		return place{}, refuse("Use a path without quotes and control characters.", "the path %q cannot be used in an image", target)
	}
	var number int
	var inside string
	if rest, ok := strings.CutPrefix(target, "partition:"); ok {
		digits, after, found := strings.Cut(rest, ":")
		n, err := strconv.Atoi(digits)
		if !found || err != nil || n < 1 {
			return place{}, refuse(remedy, "the path %q names no partition", target)
		}
		number, inside = n, after
	} else if rest, ok := strings.CutPrefix(target, dataMount+"/"); ok {
		inside = "/" + rest
	} else {
		return place{}, refuse(remedy, "the path %q is not on the data partition", target)
	}
	if !strings.HasPrefix(inside, "/") || path.Clean(inside) == "/" || strings.HasSuffix(inside, "/") {
		return place{}, refuse(remedy, "the path %q names no file", target)
	}
	if clean := path.Clean(inside); clean != inside {
		return place{}, refuse("Write "+clean+" instead.", "the path %q has superfluous parts", target)
	}
	for part := range strings.SplitSeq(inside, "/") {
		if len(part) > maxName {
			return place{}, refuse("Use a shorter name.", "a name in the path has %d bytes, %d are the most: %.40s..", len(part), maxName, part)
		}
	}
	return place{number, inside}, nil
}
