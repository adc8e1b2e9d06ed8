package imaging

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Where the Mender client looks for its key, and where that lies in Mender's
// images.
const (
	clientFolder = "/var/lib/mender"
	dataFolder   = "/mender" // in the data partition
)

// BootCheck says whether a booted device would find what is put into the Mender
// client's folder.
type BootCheck struct {
	// Checked is false where no root file system can be read, or nothing is put into
	// that folder.
	Checked bool   `json:"checked"`
	Text    string `json:"text"` // for people
}

// covered returns where a root file system on the partition has other file systems
// mounted while it runs.
func (g *Golden) covered(p *Partition, dataElsewhere bool) []string {
	if !strings.HasPrefix(p.FileSystem, "ext") {
		return nil
	}
	root, err := openExt(g, p.Offset, p.Bytes)
	if err != nil || !root.isRoot() {
		return nil
	}
	var out []string
	if dataElsewhere {
		out = append(out, dataMount)
	}
	for _, m := range root.mounts() {
		if m.at != "/" && !slices.Contains(out, m.at) {
			out = append(out, m.at)
		}
	}
	return out
}

// bootCheck follows /var/lib/mender in each root file system that can be read. The
// error says that a device would not find its key; a person who names the
// partition overrides it.
func (g *Golden) bootCheck(targets []Target) (BootCheck, error) {
	inside := slices.ContainsFunc(targets, func(t Target) bool {
		at, err := parsePlace(t.Path)
		return err == nil && at.partition == 0 && strings.HasPrefix(at.path, dataFolder+"/")
	})
	if !inside || g.why != nil {
		return BootCheck{Text: "not checked: nothing is put into the Mender client's folder"}, nil //nolint:nilerr // g.why says why the image has no data partition, which plan reports
	}
	data := &g.table.Partitions[g.data]
	var seen []string
	for i := range g.table.Partitions {
		p := &g.table.Partitions[i]
		if i == g.data || !strings.HasPrefix(p.FileSystem, "ext") {
			continue
		}
		root, err := openExt(g, p.Offset, p.Bytes)
		if err != nil || !root.isRoot() {
			continue
		}
		found, why := g.leadsToData(root)
		if found {
			seen = append(seen, fmt.Sprintf("partition %d", p.Number))
			continue
		}
		check := BootCheck{Checked: true, Text: fmt.Sprintf(
			"a device that boots partition %d would not find its key: %s", p.Number, why)}
		if g.named {
			return check, nil
		}
		return check, refuse("Let the image link /var/lib/mender to /data/mender, as mender-convert does, and mount partition "+fmt.Sprint(data.Number)+
			" at /data; or set image.partition, if your image finds the key in another way.", "%s", check.Text)
	}
	if len(seen) == 0 {
		return BootCheck{Text: "not checked: no root file system in the image can be read"}, nil
	}
	return BootCheck{Checked: true, Text: fmt.Sprintf("a booted device finds its key: %s leads there in %s", clientFolder, strings.Join(seen, " and "))}, nil
}

// leadsToData reports whether the client's folder in a root file system is the data
// partition's folder while the device runs, or says what it is instead.
func (g *Golden) leadsToData(root *extFS) (bool, string) {
	mountedAt := "" // of the data partition; "" unless fstab tells
	for _, m := range root.mounts() {
		i, ok := g.table.resolve(m.device)
		switch {
		case ok && i == g.data:
			mountedAt = m.at
		case ok && (m.at == dataMount || m.at == clientFolder):
			return false, fmt.Sprintf("its fstab mounts partition %d at %s", g.table.Partitions[i].Number, m.at)
		}
	}
	if mountedAt == "" {
		mountedAt = dataMount // by a unit, an initramfs, or growing at the first boot
	}
	real, err := root.reach(clientFolder)
	if err != nil {
		return false, fmt.Sprintf("%s cannot be followed: %v", clientFolder, err)
	}
	want := path.Join(mountedAt, dataFolder)
	if real == want {
		return true, ""
	}
	if real == clientFolder {
		return false, fmt.Sprintf("%s is no link to %s", clientFolder, want)
	}
	return false, fmt.Sprintf("%s leads to %s, not to %s", clientFolder, real, want)
}

// reach returns where a path leads when all links are followed, the last one, too.
// What does not exist here may be another file system's, and is taken as it is.
func (f *extFS) reach(name string) (string, error) {
	for range maxLinks {
		real, inodes, missing, err := f.walk(name, "")
		if err != nil {
			return "", err
		}
		last := inodes[len(inodes)-1]
		if len(missing) > 0 || last.kind() != modeSymlink {
			return real, nil
		}
		target, absolute, err := f.readLink(last, "")
		if err != nil {
			return "", err
		}
		if name = path.Clean(target); !absolute {
			name = path.Join(path.Dir(real), target)
		}
	}
	return "", fs.ErrInvalid
}
