package station

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
)

// WriteOptions say where a device's image is written.
type WriteOptions struct {
	Output string    // a file, or "-" for Stream
	Stream io.Writer // standard output
	For    string    // whom it is for; "" means the file
}

// WriteImage writes a device's image to a file or a stream, as a unit of the device.
func (v *View) WriteImage(ctx context.Context, rec *pipeline.Record, o WriteOptions) (*pipeline.Unit, error) {
	golden, err := OpenGolden(ctx, v.Config, v.Planned)
	if err != nil {
		return nil, err
	}
	defer golden.Close()
	if err := golden.Prove(ctx); err != nil {
		return nil, ImageFault(ctx, v.Config.Image.Golden, err)
	}
	to := pipeline.Unit{Medium: "standard output", Recipient: o.For}
	if o.Output != "-" {
		if err := imaging.CheckOutput(o.Output, Kept(v.Config, v.Planned, golden)...); err != nil {
			return nil, fault.As(fault.Usage, err)
		}
		path, err := filepath.Abs(o.Output)
		if err != nil {
			return nil, fault.As(fault.Usage, err)
		}
		to.Medium, to.Recipient = "file "+path, firstOf(o.For, path)
	}
	image, err := DeviceImage(ctx, golden, v.Planned, rec)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	units := v.Units()
	unit, err := units.forFile(ctx, rec, to)
	if err != nil {
		return nil, err
	}
	if o.Output == "-" {
		return unit, units.stream(ctx, rec, unit, image, o.Stream)
	}
	if err := image.Write(ctx, o.Output); err != nil {
		// Nothing of it bears the name, and what was written was overwritten.
		return nil, errors.Join(written(ctx, err), units.Fail(ctx, rec, unit, "write"))
	}
	return unit, units.Move(ctx, rec, unit, pipeline.UnitVerified)
}

func written(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fault.As(fault.Interrupted, err)
	}
	return fault.StorageOutage(err)
}

// forFile binds the device to a file or stream; a writing of the same file that was
// interrupted goes on.
func (u *Units) forFile(ctx context.Context, rec *pipeline.Record, to pipeline.Unit) (*pipeline.Unit, error) {
	before, err := u.Interrupted(ctx, rec)
	if err != nil {
		return nil, err
	}
	if before != nil && before.Medium == to.Medium && before.Medium != "standard output" {
		return before, u.Resume(ctx, rec, before)
	}
	return u.Reserve(ctx, rec, to)
}

// stream sends the image. Before its first own byte is out the unit can fail; later
// only a person can say what became of it.
func (u *Units) stream(ctx context.Context, rec *pipeline.Record, unit *pipeline.Unit, image *Image, w io.Writer) error {
	counted := &counter{w: w}
	err := image.Stream(ctx, counted)
	if err == nil {
		return u.Move(ctx, rec, unit, pipeline.UnitDelivered)
	}
	if counted.n <= image.firstOwn() {
		return errors.Join(written(ctx, err), u.Fail(ctx, rec, unit, "stream"))
	}
	return pipeline.WithHint(fmt.Errorf("%w; bytes of the device's key are out", written(ctx, err)),
		"Destroy what took them, and say so: `keymill unit scrap %s %s --reason ...`.", rec.Lot, rec.Identity.Name())
}

// counter counts what was written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
