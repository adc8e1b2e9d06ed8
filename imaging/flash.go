package imaging

import (
	"context"
	"crypto/rand"
	"errors"
)

// FlashOptions says how a device is written.
type FlashOptions struct {
	// Progress is told from time to time how many of all bytes were written or,
	// when verify is set, compared; it may be nil.
	Progress func(verify bool, done, total int64)
}

// FlashResult says what was done.
type FlashResult = MediumResult

// Flash writes a device's image to a block device as Medium.Write does, for no
// unit.
func Flash(ctx context.Context, device string, g Image, o *Overlay, opt FlashOptions) (FlashResult, error) {
	m, err := OpenMedium(device)
	if err != nil {
		return FlashResult{}, err
	}
	var write WriteMediumOptions
	if _, err := rand.Read(write.Marker[:]); err != nil {
		return FlashResult{}, errors.Join(err, m.Close())
	}
	if opt.Progress != nil {
		write.Progress = func(p MediumProgress) {
			if p.Phase != "key" {
				opt.Progress(p.Phase == "compare", p.Done, p.Total)
			}
		}
	}
	result, err := m.Write(ctx, g, o, write)
	return result, errors.Join(err, m.Close())
}
