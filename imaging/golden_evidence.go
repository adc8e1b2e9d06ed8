package imaging

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Which partition is the data partition, by what the image itself says: labels,
// the folder /mender and what lies in it, and what a root file system that can be
// read has in its fstab and in mender.conf. A number is no evidence: it decides
// only where nothing else is there.

// evidence is what an image shows of its partitions' parts.
type evidence struct {
	t       *Table
	reasons map[int][]string // by index: why it is the data partition
	root    map[int]string   // by index: why it is a root file system
}

// gatherEvidence looks at all partitions.
func gatherEvidence(r io.ReaderAt, t *Table) *evidence {
	e := &evidence{t: t, reasons: map[int][]string{}, root: map[int]string{}}
	var rootfs []*extFS
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if p.Label == "data" || p.FSLabel == "data" {
			e.point(i, `it is labelled "data"`)
		}
		if !strings.HasPrefix(p.FileSystem, "ext") {
			continue
		}
		fs, err := openExt(r, p.Offset, p.Bytes)
		if err != nil {
			continue
		}
		if fs.isRoot() {
			e.root[i] = "it holds a root file system"
			rootfs = append(rootfs, fs)
			continue
		}
		switch {
		case fs.has("/mender/device_type", modeRegular):
			e.point(i, "it holds /mender/device_type")
		case fs.has("/mender", modeDir):
			e.point(i, "it holds the folder /mender")
		}
		e.configuration(fs, "/mender/mender.conf")
	}
	for _, fs := range rootfs {
		for _, m := range fs.mounts() {
			if i, ok := t.resolve(m.device); ok && m.at == dataMount {
				e.point(i, "a root file system's fstab mounts it at "+dataMount)
			}
		}
		e.configuration(fs, "/etc/mender/mender.conf")
	}
	return e
}

// point notes a reason once.
func (e *evidence) point(i int, why string) {
	if !slices.Contains(e.reasons[i], why) {
		e.reasons[i] = append(e.reasons[i], why)
	}
}

// configuration takes the root file systems' names from a mender.conf.
func (e *evidence) configuration(fs *extFS, name string) {
	text, err := fs.readFile(name, "")
	if err != nil {
		return
	}
	var conf struct{ RootfsPartA, RootfsPartB string }
	if json.Unmarshal(text, &conf) != nil {
		return
	}
	for key, device := range map[string]string{"RootfsPartA": conf.RootfsPartA, "RootfsPartB": conf.RootfsPartB} {
		if i, ok := e.t.resolve(device); ok {
			e.root[i] = "mender.conf names it as " + key
		}
	}
}

// decide returns the data partition's index and why it is that.
func (e *evidence) decide() (index int, why string, err error) {
	const remedy = "Set image.partition to the number, label or PARTUUID of the data partition."
	var found []int
	for i := range e.t.Partitions {
		if len(e.reasons[i]) > 0 {
			found = append(found, i)
		}
	}
	if len(found) > 1 {
		var claims []string
		for _, i := range found {
			claims = append(claims, fmt.Sprintf("partition %d: %s", e.t.Partitions[i].Number, strings.Join(e.reasons[i], ", ")))
		}
		return -1, "", refuse(remedy, "the image contradicts itself as to which is the data partition: %s", strings.Join(claims, "; "))
	}
	if len(found) == 1 {
		i := found[0]
		if root, is := e.root[i]; is {
			return -1, "", refuse(remedy, "the image contradicts itself: partition %d would be the data partition, as %s, but %s",
				e.t.Partitions[i].Number, strings.Join(e.reasons[i], ", "), root)
		}
		return i, strings.Join(e.reasons[i], ", "), nil
	}
	last := slices.IndexFunc(e.t.Partitions, func(p Partition) bool { return p.Number == 4 })
	if len(e.t.Partitions) == 4 && last >= 0 && e.root[last] == "" {
		return last, "it is number 4 of 4, and nothing else shows which it is", nil
	}
	if e.t.Kind == TableNone && e.root[0] == "" {
		return 0, "the image is one file system", nil
	}
	return -1, "", refuse(remedy, "no partition shows itself as the data partition; there are: %s", e.t.list())
}

// isRoot reports whether the file system is a root file system: it has /etc and
// one of the folders without which none boots, and not the data partition's own.
func (f *extFS) isRoot() bool {
	if !f.has("/etc", modeDir) || f.has(dataFolder, modeDir) {
		return false
	}
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/var/lib"} {
		if f.has(dir, modeDir) {
			return true
		}
	}
	return false
}

// has reports whether something of a kind stands at a path; links are followed
// but the last part's.
func (f *extFS) has(name string, kind uint16) bool {
	n, err := f.find(name, "")
	return err == nil && n.kind() == kind
}

// maxConfiguration bounds a file of configuration that is read, in bytes.
const maxConfiguration = 1 << 20

// readFile reads a small regular file.
func (f *extFS) readFile(name, mount string) ([]byte, error) {
	real, _, missing, err := f.walk(name, mount)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s is not there", real)
	}
	n, err := f.find(real, mount)
	if err != nil {
		return nil, err
	}
	if n.kind() != modeRegular {
		return nil, fmt.Errorf("%s is not a file", real)
	}
	return f.content(n, maxConfiguration)
}

// mount is a line of fstab.
type mount struct{ device, at string }

// mounts reads a root file system's fstab (fstab(5)).
func (f *extFS) mounts() []mount {
	text, err := f.readFile("/etc/fstab", "")
	if err != nil {
		return nil
	}
	return parseFstab(string(text))
}

func parseFstab(text string) []mount {
	var out []mount
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || !strings.HasPrefix(fields[1], "/") {
			continue
		}
		at := strings.ReplaceAll(fields[1], `\040`, " ")
		if at != "/" {
			at = strings.TrimRight(at, "/")
		}
		out = append(out, mount{strings.Trim(strings.ReplaceAll(fields[0], `\040`, " "), `"`), at})
	}
	return out
}

// diskPartition is how Linux names the partitions of disks; the last group is the
// partition's number.
var diskPartition = regexp.MustCompile(`^/dev/(?:mmcblk[0-9]+p|nvme[0-9]+n[0-9]+p|loop[0-9]+p|[shv]d[a-z]+|xvd[a-z]+)([0-9]+)$`)

// resolve finds the partition that a device's name, as in fstab, means on the
// disk with this image.
func (t *Table) resolve(device string) (index int, ok bool) {
	var is func(p *Partition) bool
	kind, value, tagged := strings.Cut(device, "=")
	if rest, isLink := strings.CutPrefix(device, "/dev/disk/by-"); isLink {
		kind, value, tagged = strings.Cut(rest, "/")
		kind = strings.ToUpper(kind)
	}
	value = strings.Trim(value, `"`)
	switch {
	case !tagged:
		m := diskPartition.FindStringSubmatch(device)
		if m == nil {
			return 0, false
		}
		number, err := strconv.Atoi(m[1])
		if err != nil {
			return 0, false
		}
		is = func(p *Partition) bool { return p.Number == number }
	case kind == "LABEL":
		is = func(p *Partition) bool { return p.FSLabel == value }
	case kind == "PARTLABEL":
		is = func(p *Partition) bool { return p.Label == value }
	case kind == "UUID":
		is = func(p *Partition) bool { return strings.EqualFold(p.FSUUID, value) }
	case kind == "PARTUUID":
		is = func(p *Partition) bool { return strings.EqualFold(p.PARTUUID, value) }
	default:
		return 0, false
	}
	i, n := matching(t, is)
	return i, n == 1
}
