package imaging

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// The kinds of media.
const (
	MediumDisk = "disk"
	MediumFile = "file"
)

// MediumIdentity says which medium lies in which slot, as far as that can be
// known. Readers hide or invent serial numbers of the cards in them, so only the
// slot of a USB reader is certain; an MMC slot of the machine itself shows its card.
type MediumIdentity struct {
	Kind   string `json:"kind"`              // "disk" or "file"
	Path   string `json:"path"`              // as it was opened
	Port   string `json:"port,omitempty"`    // USB topology: "1-1.2"
	ByPath string `json:"by_path,omitempty"` // the link in /dev/disk/by-path
	CID    string `json:"cid,omitempty"`     // of an MMC or SD card, 32 hexadecimal digits
	Model  string `json:"model,omitempty"`   // the reader's, or the card's name
	Bytes  int64  `json:"bytes"`
}

// String names the medium in one line, the slot first: what outlives a
// restart before what doesn't.
func (id MediumIdentity) String() string {
	var words []string
	switch {
	case id.Kind == MediumFile:
		return "file " + id.Path
	case id.Port != "":
		words = append(words, "usb "+id.Port)
	case id.ByPath != "":
		words = append(words, id.ByPath)
	default:
		words = append(words, id.Path)
	}
	if id.CID != "" {
		words = append(words, "cid "+id.CID)
	}
	if id.Model != "" {
		words = append(words, id.Model)
	}
	return strings.Join(append(words, fmt.Sprintf("%d bytes", id.Bytes)), ", ")
}

// usbPort is a device's name in /sys/bus/usb: the bus, and the ports on the way.
var usbPort = regexp.MustCompile(`^[0-9]+-[0-9]+(\.[0-9]+)*$`)

// identify reads what sys, which is /sys, and the links in byPath tell of a disk.
func identify(path, sys, byPath string) (MediumIdentity, error) {
	number, err := deviceNumber(path)
	if err != nil {
		return MediumIdentity{}, err
	}
	id, err := identifyNumber(number, sys)
	if err != nil {
		return id, err
	}
	id.Kind, id.Path = MediumDisk, path
	links, _ := os.ReadDir(byPath) // machines without udev have none
	for _, l := range links {
		link := filepath.Join(byPath, l.Name())
		if other, err := deviceNumber(link); err == nil && other == number {
			id.ByPath = link
			break
		}
	}
	return id, nil
}

// identifyNumber reads what /sys tells of the device with a number such as "8:16".
func identifyNumber(number, sys string) (MediumIdentity, error) {
	var id MediumIdentity
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", number))
	if err != nil {
		return id, fmt.Errorf("find the device in /sys: %w", err)
	}
	for part := range strings.SplitSeq(dir, "/") {
		if usbPort.MatchString(part) {
			id.Port = part // the last one is nearest to the disk
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, "device", name))
		if err != nil {
			return ""
		}
		return strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
	}
	id.CID = read("cid")
	id.Model = strings.TrimSpace(read("vendor") + " " + read("model"))
	if id.CID != "" {
		id.Model = read("name")
	}
	return id, nil
}
