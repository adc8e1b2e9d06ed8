package station

import (
	"context"
	"errors"
	"fmt"
	"os"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// FlashOptions say how a medium is written.
type FlashOptions struct {
	// Overwrite takes a medium that holds a device's image.
	Overwrite bool
	// Progress is told how far it is; it may be nil.
	Progress func(imaging.MediumProgress)
}

// Flashed is a medium that was written. It is the JSON of `image flash --json`.
type Flashed struct {
	Device  pipeline.Identity `json:"device"`
	Unit    int               `json:"unit"`
	Medium  string            `json:"medium"`
	Disk    string            `json:"disk"`
	Written int64             `json:"bytes_written"`
	Skipped int64             `json:"bytes_skipped"`
}

// Flash writes a device's image to a disk, as a unit of the device. A writing that
// was interrupted goes on with the same medium only.
func (v *View) Flash(ctx context.Context, rec *pipeline.Record, disk string, o FlashOptions) (done Flashed, err error) {
	golden, err := OpenGolden(ctx, v.Config, v.Planned)
	if err != nil {
		return done, err
	}
	defer golden.Close()
	image, err := DeviceImage(ctx, golden, v.Planned, rec)
	if err != nil {
		return done, err
	}
	defer image.Close()
	if image.Overlay == nil {
		return done, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("lot %s is not in format pack: its images are files", v.Planned.Name),
			"Write the file with your tool, or plan lots that are flashed here with --format pack."))
	}
	if info, err := os.Stat(disk); err == nil && info.Mode().IsRegular() {
		return done, fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("%s is no block device", disk),
			"Name a block device such as /dev/sdX; for a file, use keymill image write."))
	}
	medium, err := imaging.OpenMedium(disk)
	if err != nil {
		return done, mediumFault(ctx, err)
	}
	defer medium.Close()
	units := v.Units()
	unit, resumed, err := units.forMedium(ctx, rec, medium, golden, image.Overlay, o.Overwrite)
	if err != nil {
		return done, err
	}
	result, err := medium.Write(ctx, golden, image.Overlay, imaging.WriteMediumOptions{Marker: unit.Marker, Resumed: resumed, Progress: o.Progress})
	if err != nil {
		return done, units.mediumFailed(ctx, rec, unit, err)
	}
	if err := units.Move(ctx, rec, unit, pipeline.UnitVerified); err != nil {
		return done, err
	}
	return Flashed{rec.Identity, unit.Number, unit.Medium, disk, result.Written, result.Skipped}, nil
}

// forMedium binds the device to the medium: as a new unit, or as the one whose
// writing to this medium was interrupted.
func (u *Units) forMedium(ctx context.Context, rec *pipeline.Record, m *imaging.Medium, g imaging.Image, o *imaging.Overlay, overwrite bool) (unit *pipeline.Unit, resumed bool, err error) {
	holds, err := m.Contents(ctx, g, o)
	if err != nil {
		return nil, false, mediumFault(ctx, err)
	}
	before, err := u.Interrupted(ctx, rec)
	if err != nil {
		return nil, false, err
	}
	if before != nil {
		same := holds.Kind == imaging.MediumUnit && holds.Marker == before.Marker || holds.Kind == imaging.MediumImage
		if !same {
			return nil, false, fault.As(fault.Usage, pipeline.WithHint(
				fmt.Errorf("unit %d of %s was interrupted while %s was written, and this is another medium (%s)", before.Number, rec.Identity, before.Medium, holds.Detail),
				"Put the same medium back, or destroy it and say so: `keymill unit scrap %s %s --reason ...`.", rec.Lot, rec.Identity.Name()))
		}
		return before, true, u.Resume(ctx, rec, before)
	}
	live, err := u.Ledger.LiveUnit(ctx, rec.Lot, rec.Row)
	if err != nil {
		return nil, false, err
	}
	if live != nil && live.State != pipeline.UnitReserved {
		return nil, false, fault.As(fault.Usage, &pipeline.UnitTakenError{Unit: live})
	}
	if holds.Kind == imaging.MediumUnit {
		owner, err := u.ByMarker(ctx, holds.Marker)
		if err != nil {
			return nil, false, err
		}
		if owner == nil {
			holds.Kind = imaging.MediumBlank // that unit has ended
		} else {
			holds.Detail = fmt.Sprintf("the writing of unit %d (%s) was interrupted", owner.Number, owner.Device)
		}
	}
	switch holds.Kind {
	case imaging.MediumUnit, imaging.MediumGolden, imaging.MediumImage:
		if !overwrite {
			return nil, false, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("the medium is not free: %s", holds.Detail),
				"Take another medium. If it is to lose what it holds, say --overwrite; a device whose image was there then needs a new unit."))
		}
	}
	id := m.Identity()
	unit, err = u.Reserve(ctx, rec, pipeline.Unit{Medium: id.String(), Slot: firstOf(id.Port, id.ByPath)})
	return unit, false, err
}

// mediumFailed records how a writing ended, and returns the error for people.
func (u *Units) mediumFailed(ctx context.Context, rec *pipeline.Record, unit *pipeline.Unit, err error) error {
	failed, ok := errors.AsType[*imaging.MediumError](err)
	if !ok || failed.KeyLeft {
		return mediumFault(ctx, err) // the unit stays bound
	}
	return errors.Join(mediumFault(ctx, err), u.Fail(ctx, rec, unit, failed.Code))
}

// mediumFault gives errors of media their kind.
func mediumFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fault.As(fault.Interrupted, err)
	}
	return fault.As(fault.Storage, err)
}
