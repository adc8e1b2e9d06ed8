package imaging

import (
	"path"
	"strconv"
	"strings"
	"unicode"
)

// Target is one file that is put into the image.
type Target struct {
	// Path is where the file lies. /data/mender/mender-agent.pem is on the data
	// partition, whose mount point is /data; partition:2:/etc/x is the file
	// /etc/x on partition number 2.
	Path string
	// Mode holds the permission bits with setuid, setgid and sticky; 0 means 0600.
	Mode uint16
	// UID and GID own the file.
	UID, GID uint32
}

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

// parsePlace reads a target's path.
func parsePlace(target string) (place, error) {
	const remedy = "Write /data/.. for the data partition, or partition:N:/.. for partition N."
	for _, r := range target {
		if unicode.IsControl(r) || r == '"' || r == unicode.ReplacementChar {
			return place{}, refuse("Use a path without quotes and control characters.", "the path %q cannot be used in an image", target)
		}
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
	return place{number, inside}, nil
}
