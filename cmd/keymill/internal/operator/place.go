package operator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Presence says what lies in a slot.
type Presence struct {
	Path    string // what to open; empty where the slot is empty
	Seq     string // differs each time a medium comes, also from one like it
	Bytes   int64
	Port    string // topology, as far as it is known
	Problem string // why the slot can't be used; for people
}

// Place is where a medium is plugged in. Look is cheap and may be called often.
type Place interface {
	Look() Presence
	String() string
}

// Places finds media by the topology of the machine. Serial numbers are never
// asked: twin readers share them.
type Places struct {
	Sys string // /sys
	Dev string // /dev
}

// usbPort is a port's path as the kernel names it: bus, then hub by hub.
var usbPort = regexp.MustCompile(`^\d+-\d+(\.\d+)*$`)

// Port returns the place at a USB port: "1-1.2".
func (p Places) Port(port string) (Place, error) {
	if !usbPort.MatchString(port) {
		return nil, fmt.Errorf("%q is no USB port; ports are called 1-1.2, as `ls /sys/bus/usb/devices` shows them", port)
	}
	return &portPlace{p, port}, nil
}

// Disk returns the place that a path names by topology.
func (p Places) Disk(path string) (Place, error) {
	for _, by := range []string{"by-id", "by-uuid", "by-label", "by-partuuid", "by-partlabel", "by-diskseq"} {
		if strings.Contains(path, "/disk/"+by+"/") {
			return nil, fmt.Errorf("%s names a medium or a reader by what it says of itself, and twin readers say the same; name the place: port: 1-1.2, or a link in /dev/disk/by-path", path)
		}
	}
	if base := filepath.Base(path); strings.HasPrefix(base, "sd") && filepath.Dir(path) == p.Dev {
		return nil, fmt.Errorf("%s names whatever disk came first; name the place: port: 1-1.2, or a link in /dev/disk/by-path", path)
	}
	return &diskPlace{p, path}, nil
}

// portPlace is a USB port.
type portPlace struct {
	Places
	port string
}

func (p *portPlace) String() string { return "port " + p.port }

func (p *portPlace) Look() Presence {
	var found []Presence
	links, err := filepath.Glob(filepath.Join(p.Sys, "block", "*"))
	if err != nil {
		return Presence{Problem: err.Error()}
	}
	for _, link := range links {
		dir, err := filepath.EvalSymlinks(link)
		if err != nil || portOf(dir) != p.port {
			continue
		}
		if have := p.disk(dir); have.Path != "" {
			have.Port = p.port
			found = append(found, have)
		}
	}
	switch len(found) {
	case 0:
		return Presence{}
	case 1:
		return found[0]
	}
	return Presence{Problem: fmt.Sprintf("%d media are in the reader at port %s; leave one in it, or name each place by disk: /dev/disk/by-path/..", len(found), p.port)}
}

// portOf returns the USB port of a disk's folder in /sys: the last part that
// looks like one.
func portOf(dir string) string {
	parts := strings.Split(dir, "/")
	slices.Reverse(parts)
	for _, part := range parts {
		if usbPort.MatchString(part) {
			return part
		}
	}
	return ""
}

// diskPlace is a device file whose name is a place's.
type diskPlace struct {
	Places
	path string
}

func (p *diskPlace) String() string { return p.path }

func (p *diskPlace) Look() Presence {
	node, err := filepath.EvalSymlinks(p.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Presence{}
	case err != nil:
		return Presence{Problem: err.Error()}
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(p.Sys, "class/block", filepath.Base(node)))
	if err != nil {
		return Presence{}
	}
	have := p.disk(dir)
	have.Port = portOf(dir)
	return have
}

// disk reads a disk's folder in /sys. A reader without a card has 0 bytes.
func (p Places) disk(dir string) Presence {
	sectors, err := readNumber(filepath.Join(dir, "size"))
	if err != nil || sectors == 0 {
		return Presence{}
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return Presence{Problem: filepath.Base(dir) + " is a partition; name the whole disk"}
	}
	// diskseq counts all media that this kernel has seen (since Linux 5.15).
	seq, err := readNumber(filepath.Join(dir, "diskseq"))
	if err != nil {
		seq = sectors
	}
	name := strings.ReplaceAll(filepath.Base(dir), "!", "/")
	return Presence{Path: filepath.Join(p.Dev, name), Seq: fmt.Sprintf("%s/%d/%d", filepath.Base(dir), seq, sectors), Bytes: sectors * 512}
}

func readNumber(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Ports returns the USB ports that have a medium, with what lies there: for
// learning which slot is which.
func (p Places) Ports() map[string]string {
	ports := map[string]string{}
	links, _ := filepath.Glob(filepath.Join(p.Sys, "block", "*")) // the pattern is good
	for _, link := range links {
		dir, err := filepath.EvalSymlinks(link)
		if err != nil {
			continue
		}
		if have := p.disk(dir); have.Path != "" && portOf(dir) != "" {
			ports[portOf(dir)] = have.Seq
		}
	}
	return ports
}

// filePlace is an image file instead of a medium, for trials. It is always there.
type filePlace struct{ path string }

// File returns the place of an image file.
func File(path string) Place { return &filePlace{path} }

func (p *filePlace) String() string { return p.path }

func (p *filePlace) Look() Presence { return Presence{Path: p.path, Seq: "file"} }

// finish renames the file to NAME-DEVICE.img, NAME being the slot's.
func (p *filePlace) finish(slot, device string) error {
	to := filepath.Join(filepath.Dir(p.path), safeName(slot)+"-"+safeName(device)+filepath.Ext(p.path))
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is there already", to)
	}
	return os.Rename(p.path, to)
}

// discard removes a file that holds a failed unit, no key among it.
func (p *filePlace) discard() { _ = os.Remove(p.path) } // left where it can't be: the slot is refused then

// learnable is a slot whose place is not known yet.
type learnable struct{}

func (learnable) String() string { return "not learnt" }

func (learnable) Look() Presence {
	return Presence{Problem: "the place of this slot is not known yet: scan LEARN and the slot's name, then plug a medium in"}
}

// programPlace stands where a program writes: there is nothing to look at.
type programPlace struct{ name string }

func (p programPlace) String() string { return p.name }

func (p programPlace) Look() Presence { return Presence{Path: p.name, Seq: "program"} }
