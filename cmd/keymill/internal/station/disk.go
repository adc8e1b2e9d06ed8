package station

import (
	"fmt"
	"os"
	"path/filepath"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/imaging"
	"keymill/pipeline"
)

// What a device takes on the disk beside its image, in bytes: rounded up from
// what was measured, ledger and report included.
const (
	ledgerBytesPerDevice = 6 << 10
	packBytesPerDevice   = 4 << 10
	deltaBytes           = 256 << 10
	// compressionGuess is how much smaller compressed images are thought to be
	// before there is one; it is a guess to the low side, as a lot that runs out
	// of disk can be resumed and one that is refused for nothing cannot be run.
	compressionGuess = 4
)

func isCompressed(format string) bool { return format == "gz" || format == "xz" || format == "zst" }

// DiskNeed is what a lot will take on the disk.
type DiskNeed struct {
	PerDevice int64 `json:"bytes_per_device"`
	Total     int64 `json:"bytes"`
	Free      int64 `json:"free"`
	Reflinks  bool  `json:"reflinks"`
}

// diskFor estimates the need of a lot's devices in its output folder.
func (l *Lot) diskFor(devices int) (DiskNeed, error) {
	var need DiskNeed
	dir := existingParent(l.Out)
	free, err := imaging.FreeBytes(dir)
	if err != nil {
		return need, err
	}
	need.Free = free
	if l.keyless() {
		need.PerDevice = ledgerBytesPerDevice
		need.Total = need.PerDevice * int64(devices)
		return need, nil
	}
	need.PerDevice = ledgerBytesPerDevice + packBytesPerDevice
	if need.Reflinks, err = imaging.Reflinks(l.images.golden, dir); err != nil {
		return need, err
	}
	golden, err := imaging.AllocatedBytes(l.images.golden.Path())
	if err != nil {
		return need, err
	}
	switch l.Format {
	case config.FormatPack:
	case "raw":
		need.PerDevice += golden
	case "gz", "xz", "zst":
		need.PerDevice += golden / compressionGuess
	default: // a device's difference to golden
		need.PerDevice += deltaBytes
	}
	if shares := l.Format == "raw" || isCompressed(l.Format); shares && need.Reflinks {
		need.PerDevice = ledgerBytesPerDevice + packBytesPerDevice + deltaBytes
	}
	need.Total = need.PerDevice * int64(devices)
	return need, nil
}

// enoughDisk refuses a lot that will not fit, before anything is made.
func (l *Lot) enoughDisk(devices int) error {
	need, err := l.diskFor(devices)
	if err != nil {
		return fault.StorageOutage(err)
	}
	if need.Total <= need.Free {
		return nil
	}
	hint := "Free the disk, or put the lot elsewhere with --out."
	if l.Format == "raw" && !need.Reflinks {
		hint = "Use --format pack (a few KiB a device; `keymill image write` makes any image from it), " +
			"or put --out and the golden image on one XFS or btrfs, where raw images share their blocks."
	}
	return &pipeline.Outage{Part: pipeline.PartStorage, Hint: hint,
		Err: fmt.Errorf("%d devices need about %s in %s, but %s are free", devices, say.Bytes(need.Total), l.Out, say.Bytes(need.Free))}
}

// existingParent returns the nearest folder of path that exists.
func existingParent(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return path
		}
		path = parent
	}
}
