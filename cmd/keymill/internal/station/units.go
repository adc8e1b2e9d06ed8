package station

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// Units binds a lot's devices to the physical things that their images go to.
// Whatever gives an image out goes through it: nothing leaves before the ledger
// durably says where to, and before the pack bears a mark of that. Its methods may be
// called by many goroutines at once.
type Units struct {
	Ledger   *ledger.Ledger
	Lot      pipeline.Lot
	Station  string
	Operator string
	// Mark puts a hand-out mark into the lot's pack.
	Mark func(ctx context.Context, m imaging.Mark) error
}

// Units returns how the lot's images are handed out by a process that doesn't hold
// its pack.
func (v *View) Units() *Units {
	return &Units{
		Ledger: v.Ledger, Lot: v.Planned, Station: v.Config.Audit.Station, Operator: v.Config.Audit.Operator,
		Mark: func(ctx context.Context, m imaging.Mark) error { return markPack(ctx, v.Planned, m) },
	}
}

// markPatience is how long a mark waits for another process that has the pack.
const markPatience = 10 * time.Second

// markPack opens the lot's pack for one mark.
func markPack(ctx context.Context, lot pipeline.Lot, m imaging.Mark) error {
	waiting, cancel := context.WithTimeout(ctx, markPatience)
	defer cancel()
	for {
		pack, err := imaging.OpenPack(PackPath(lot))
		switch {
		case err == nil:
			return errors.Join(pack.Mark(ctx, m), pack.Close())
		case errors.Is(err, fs.ErrNotExist) && lot.Format != config.FormatPack:
			return nil // the images are the products, and the pack was pruned
		case !errors.Is(err, imaging.ErrPackInUse):
			return err
		}
		pause := time.NewTimer(50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-waiting.Done():
			pause.Stop()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return pipeline.WithHint(err, "Another keymill has the lot's pack open, such as a run. Let it end, then do this again.")
		}
	}
}

// Reserve binds a device to a new unit, marks the pack, and brings the unit to
// writing: after that its bytes may leave. to says where they go; its Medium, Slot,
// Recipient, Client and ETag are taken. states are those of the device that allow
// it, released where none is given. A unit that a dead process had reserved is given up first.
func (u *Units) Reserve(ctx context.Context, rec *pipeline.Record, to pipeline.Unit, states ...pipeline.State) (*pipeline.Unit, error) {
	unit, err := u.reserve(ctx, rec, to, states)
	if err != nil {
		return nil, err
	}
	changes := u.changes(rec)
	mark := imaging.Mark{
		Key: rec.Identity.Sum(), Entry: imaging.Ref(rec.Pack), Unit: int64(unit.Number), Marker: unit.Marker,
		Time: time.Now(), Recipient: firstOf(unit.Recipient, unit.Medium, unit.Client),
	}
	if err := u.Mark(ctx, mark); err != nil {
		if ctx.Err() == nil {
			err = fault.StorageOutage(fmt.Errorf("mark the pack: %w", err))
		}
		return nil, errors.Join(err, u.Fail(ctx, rec, unit, "pack"))
	}
	if err := changes.MoveUnit(ctx, u.Ledger, rec, unit, pipeline.UnitWriting, nil); err != nil {
		return nil, err
	}
	return unit, nil
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func (u *Units) reserve(ctx context.Context, rec *pipeline.Record, to pipeline.Unit, states []pipeline.State) (*pipeline.Unit, error) {
	to.Operator, to.Owner = u.Operator, u.owner()
	if _, err := rand.Read(to.Marker[:]); err != nil {
		return nil, err
	}
	for {
		unit := to
		err := u.changes(rec).ReserveUnit(ctx, u.Ledger, rec, &unit, states...)
		if err == nil {
			return &unit, nil
		}
		taken, isTaken := errors.AsType[*pipeline.UnitTakenError](err)
		switch {
		case isTaken && taken.Unit.State == pipeline.UnitReserved && u.dead(taken.Unit):
			if err := u.Fail(ctx, rec, taken.Unit, "abandoned"); err != nil && !errors.Is(err, pipeline.ErrLost) {
				return nil, err
			}
		case isTaken:
			return nil, fault.As(fault.Usage, err)
		case errors.Is(err, pipeline.ErrLost):
			return nil, u.notReady(ctx, rec)
		default:
			return nil, err
		}
	}
}

// notReady says why no unit can be made of a device.
func (u *Units) notReady(ctx context.Context, rec *pipeline.Record) error {
	state := rec.State
	if now, err := u.Ledger.Find(ctx, rec.Lot, rec.Identity.Name()); err == nil && len(now) == 1 {
		state = now[0].State
	}
	return fault.As(fault.Devices, pipeline.WithHint(fmt.Errorf("%s is %s: only released devices are given out", rec.Identity, state),
		"`keymill status %s` says where it stands; `keymill run` or `keymill retry %s` brings it on.", rec.Lot, rec.Lot))
}

func (u *Units) changes(rec *pipeline.Record) *pipeline.Transitions {
	return &pipeline.Transitions{Ledger: u.Ledger, Station: u.Station, Run: rec.Run}
}

// Resume takes a unit over whose writing another process began.
func (u *Units) Resume(ctx context.Context, rec *pipeline.Record, unit *pipeline.Unit) error {
	return u.changes(rec).MoveUnit(ctx, u.Ledger, rec, unit, pipeline.UnitWriting, func(next *pipeline.Unit) {
		next.Operator, next.Owner = u.Operator, u.owner()
	})
}

// Move brings a unit to its next state.
func (u *Units) Move(ctx context.Context, rec *pipeline.Record, unit *pipeline.Unit, to pipeline.UnitState) error {
	return u.changes(rec).MoveUnit(ctx, u.Ledger, rec, unit, to, nil)
}

// Fail ends a unit of which no key byte is out.
func (u *Units) Fail(ctx context.Context, rec *pipeline.Record, unit *pipeline.Unit, code string) error {
	return u.changes(rec).MoveUnit(ctx, u.Ledger, rec, unit, pipeline.UnitFailed, func(next *pipeline.Unit) { next.Reason = code })
}

// Scrap ends a unit; a person says why.
func (u *Units) Scrap(ctx context.Context, rec *pipeline.Record, unit *pipeline.Unit, reason string) error {
	return u.changes(rec).MoveUnit(ctx, u.Ledger, rec, unit, pipeline.UnitScrapped, func(next *pipeline.Unit) { next.Reason = reason })
}

// owner is this process.
func (u *Units) owner() pipeline.Owner {
	return pipeline.Owner{Station: u.Station, Boot: bootID(), PID: os.Getpid()}
}

// bootID is the machine's boot id; it changes with each start of the kernel.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// dead reports whether the process that owned a unit is gone for certain. Of another
// station's process that isn't known here.
func (u *Units) dead(unit *pipeline.Unit) bool {
	o := unit.Owner
	if o.Station != u.Station {
		return false
	}
	if o.Boot != bootID() {
		return o.Boot != "" && bootID() != ""
	}
	if o.PID == os.Getpid() {
		return false
	}
	if err := syscall.Kill(o.PID, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	began, err := processBegan(o.PID)
	return err == nil && began.After(unit.Updated.Add(time.Minute)) // another process has its number now
}

// processBegan says when a process began (proc(5): starttime, in 1/100 s since the
// machine's start).
func processBegan(pid int) (time.Time, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return time.Time{}, errors.New("stat is short")
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	up, err := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
	if err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(-time.Duration((up - float64(ticks)/100) * float64(time.Second))), nil
}

// Interrupted returns the device's unit whose writing a process that is dead now had
// begun; nil where there is none.
func (u *Units) Interrupted(ctx context.Context, rec *pipeline.Record) (*pipeline.Unit, error) {
	unit, err := u.Ledger.LiveUnit(ctx, rec.Lot, rec.Row)
	if err != nil || unit == nil || unit.State != pipeline.UnitWriting || !u.dead(unit) {
		return nil, err
	}
	return unit, nil
}

// ByMarker returns the lot's live unit with a marker, nil where there is none. It reads
// all of the lot's units.
func (u *Units) ByMarker(ctx context.Context, marker [16]byte) (*pipeline.Unit, error) {
	for unit, err := range u.Ledger.Units(ctx, u.Lot.Name) {
		if err != nil {
			return nil, err
		}
		if unit.Marker == marker && unit.State.Live() {
			return unit, nil
		}
	}
	return nil, nil
}
