package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymill/pipeline"
)

// pass lets time pass, as far as it goes by itself.
func pass(d time.Duration) {
	time.Sleep(d) // of a synctest bubble's clock
	synctest.Wait()
}

func withBadges(t *testing.T) func(*bench, *Options) {
	return func(_ *bench, o *Options) {
		badges, err := parseBadges(strings.NewReader(testBadges))
		if err != nil {
			t.Fatal(err)
		}
		o.Badges = badges
	}
}

func TestShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 2, withBadges(t))
		defer b.end()
		synctest.Wait()
		b.want("badge", "Scan your badge")
		b.scan("SN0001")
		b.want("badge", "no badge")
		b.scan("B1001")
		b.want("ready", "Scan the next unit")
		b.places[1].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		b.want("slots", "Slot 2 starts") // the slot with a medium goes first
		pass(time.Second)
		b.want("ready")
		b.scan("SN0002")
		b.want("slots", "Put a medium into slot 1")
		b.places[0].plug()
		pass(2 * time.Second)
		pass(10 * time.Second)
		v := b.want("pass", "Stick the label on, scan it", "SN0001", "1 more")
		if v.Slots[1].Label != "SN0001.U1" || v.Slots[0].State != "labelled" {
			t.Fatalf("slots: %+v", v.Slots)
		}
		b.scan("SN0001.U1")
		b.want("pass", "SN0002", "SN0001 is closed")
		b.scan("]C0SN0002.U2")
		b.want("slots", "SN0002 is closed", "Take the medium out")
		b.wantUnits("SN0001 confirmed", "SN0002 confirmed")
		b.scan("END")
		v = b.want("end", "2 units made")
		if v.Numbers.Yield != "100.0 %" || v.Remaining != 1 || v.Made != 2 {
			t.Fatalf("%+v %+v", v.Numbers, v.State)
		}
		b.scan("B1002")
		b.want("slots", "All slots are in use", "Take the medium out")
		b.places[0].pull()
		b.places[1].pull()
		pass(2 * time.Second)
		b.want("ready")
	})
}

func TestDoubledScans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 2, nil)
		defer b.end()
		b.places[0].plug()
		b.places[1].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		b.scan("SN0001")       // the scanner sent it twice
		b.scan("SN0001SN0001") // or read it twice
		v := b.Scan(t.Context(), "scan-1", "SN0002")
		if v.Remaining != 2 {
			t.Fatalf("an id that was taken did something: %+v", v.State)
		}
		pass(time.Second)
		b.scan("SN0001")
		b.wantUnits("SN0001 writing")
		pass(10 * time.Second)
		b.want("pass")
		b.scan("SN0001") // the sticker confirms nothing
		b.want("pass", "confirms nothing")
		b.scan("SN0001.U1")
		b.scan("SN0001.U1")
		b.wantUnits("SN0001 confirmed")
		b.scan("SN0001")
		b.want("ready", "closed already") // its card is still in the slot
		b.places[0].pull()
		pass(2 * time.Second)
		b.scan("sn0001") // lost shift
		b.want("fail", "has its image already: unit 1")
		b.scan("SN0002")
		pass(time.Second)
		b.wantUnits("SN0001 confirmed", "SN0002 writing")
	})
}

func TestWrongLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 2, nil)
		defer b.end()
		b.places[0].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(12 * time.Second)
		b.scan("SN0003.U7")
		b.want("fail", "not the label of SN0001")
		b.wantUnits("SN0001 labelled")
		b.scan("OTHER1")
		b.want("fail", "not the label")
		b.scan("SN0001.U1")
		b.wantUnits("SN0001 confirmed")
		b.scan("OTHER1")
		b.want("fail", "belongs to lot W46")
		b.scan("nothing")
		b.want("fail", "No unit of this lot has the code nothing")
		b.scan("  \r\n")
		b.scan("")
		b.want("fail", "nothing")
		b.wantUnits("SN0001 confirmed")
	})
}

func TestPrinterOutOfPaper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 5, 3, nil)
		defer b.end()
		for i := range 3 {
			b.places[i].plug()
		}
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(time.Second)
		b.scan("SN0002")
		pass(time.Second)
		b.printer.set(&PrinterError{Text: "is out of paper"})
		pass(12 * time.Second)
		v := b.want("stopped", "out of paper", "2 finished units wait")
		if v.Line != "stopped" || v.Slots[0].State != "verified" || v.Slots[1].State != "verified" {
			t.Fatalf("%+v", v.State)
		}
		b.scan("SN0003")
		b.wantUnits("SN0001 verified", "SN0002 verified")
		b.printer.set(nil)
		pass(3 * time.Second)
		b.want("pass")
		b.wantUnits("SN0001 labelled", "SN0002 labelled")
		if fmt.Sprint(b.printer.printed) != "[000001-SN0001 000002-SN0002]" {
			t.Fatalf("printed %v", b.printer.printed)
		}
		// A label that the printer has taken, and prints once it has paper, is not
		// sent again.
		b.scan("SN0001.U1")
		b.scan("SN0002.U2")
		b.scan("SN0003")
		pass(time.Second)
		b.printer.set(&PrinterError{Text: "is out of paper", Queued: true})
		pass(12 * time.Second)
		b.want("stopped")
		b.printer.set(nil)
		pass(3 * time.Second)
		b.wantUnits("SN0001 confirmed", "SN0002 confirmed", "SN0003 labelled")
		if len(b.printer.printed) != 3 {
			t.Fatalf("printed %v", b.printer.printed)
		}
	})
}

func TestReprintWantsAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 1, nil)
		defer b.end()
		b.places[0].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(12 * time.Second)
		b.scan("REPRINT")
		b.want("reason", "Why?")
		b.scan("SN0001.U1")
		b.want("reason", "one of the reasons")
		b.scan("REASON 1")
		pass(time.Second)
		b.want("pass")
		if len(b.printer.printed) != 2 {
			t.Fatalf("printed %v", b.printer.printed)
		}
		b.scan("SN0001.U1")
		if note := b.lot.notes[len(b.lot.notes)-1]; note.Action != "reprint" || note.Reason != "Label damaged" {
			t.Fatalf("%+v", note)
		}
		b.scan("END")
		if v := b.want("end"); v.Numbers.Reprints != 1 || v.Numbers.Yield != "0.0 %" {
			t.Fatalf("%+v", v.Numbers)
		}
	})
}

func TestMediumThatIsNotBlank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 1, withBadges(t))
		defer b.end()
		b.press.media["/dev/fake1"] = &Contents{Bytes: 1 << 30, Holds: HoldsForeign, Detail: "3 partitions"}
		b.scan("B1001")
		b.places[0].plug()
		pass(2 * time.Second)
		b.want("slots", "not blank: 3 partitions")
		b.scan("SN0001")
		b.wantUnits()
		b.scan("S2001")
		b.want("supervisor", "enter your PIN")
		for range 3 {
			b.scan("1234")
		}
		b.want("supervisor", "not the PIN")
		b.scan("4711") // the right one, but too soon
		b.want("supervisor", "Too many wrong PINs")
		pass(31 * time.Second)
		b.scan("4711")
		b.want("supervisor", "Why?")
		b.scan("REASON 2")
		b.want("ready")
		note := b.lot.notes[len(b.lot.notes)-1]
		if note.Action != "override" || note.By != "Mia" || note.Reason != "Trial medium" {
			t.Fatalf("%+v", note)
		}
		for _, note := range b.lot.notes {
			if strings.Contains(fmt.Sprint(note), "4711") {
				t.Fatalf("a PIN in an event: %+v", note)
			}
		}
		b.scan("SN0001")
		pass(time.Second)
		b.wantUnits("SN0001 writing")
		// Another medium in the same slot needs an override of its own.
		pass(12 * time.Second)
		b.scan("SN0001.U1")
		b.places[0].pull()
		pass(2 * time.Second)
		b.press.media["/dev/fake1"] = &Contents{Bytes: 1 << 30, Holds: HoldsMarker}
		b.places[0].plug()
		pass(2 * time.Second)
		b.want("slots", "belongs to a unit whose writing was interrupted")
	})
}

func TestMediumPulledWhileWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 2, nil)
		defer b.end()
		b.places[0].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(2 * time.Second)
		b.places[0].pull()
		pass(2 * time.Second)
		b.want("fail", "taken out while it was written", "PULLED")
		b.wantUnits("SN0001 failed")
		b.scan("SN0002") // not before the failure was seen
		b.want("fail", "PULLED")
		b.scan("ACK")
		b.want("ready")
		// Once the key was going out, only the same medium goes on.
		b.press.media = map[string]*Contents{}
		b.places[0].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(7 * time.Second)
		b.places[0].pull()
		pass(3 * time.Second)
		b.want("slots", "put the same medium back")
		b.wantUnits("SN0001 failed", "SN0001 writing")
		saved := b.press.media["/dev/fake1"]
		b.press.media["/dev/fake1"] = &Contents{Bytes: 1 << 30}
		b.places[0].plug()
		pass(2 * time.Second)
		b.want("slots", "not the medium that was interrupted")
		b.places[0].pull()
		pass(2 * time.Second)
		b.press.media["/dev/fake1"] = saved
		b.places[0].plug()
		pass(14 * time.Second)
		b.want("pass", "SN0001")
		if keys := b.press.keys[2]; !slices.Equal(keys, []string{"/dev/fake1#2"}) {
			t.Fatalf("the key went to %v", keys)
		}
	})
}

func TestTwoReadingsDisagree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 1, nil)
		defer b.end()
		synctest.Wait()
		b.scan("SN0001")
		b.want("slots", "Put a medium into slot 1")
		b.scan("SN0002")
		b.want("fail", "Two readings disagree: SN0001, then SN0002")
		b.wantUnits("SN0001 failed")
		b.scan("SN0002")
		b.want("fail", "Two readings")
		b.scan("ACK")
		b.scan("SN0002")
		b.want("slots", "Put a medium")
		b.scan("CANCEL")
		b.want("ready", "taken back")
	})
}

func TestInterruptedUnitsAreTakenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 6, 4, nil)
		for i := range 3 {
			b.places[i].plug()
		}
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(12 * time.Second) // labelled
		b.printer.set(&PrinterError{Text: "is open"})
		b.scan("SN0002")
		pass(time.Second)
		b.Scan(t.Context(), "x", "SN0003")
		pass(12 * time.Second) // verified, or not begun as the line stopped
		b.lot.mu.Lock()
		before := slices.Clone(b.lot.units)
		b.lot.mu.Unlock()
		b.end()
		// As kill -9 leaves it: nothing of the process goes on. One is made to look
		// as in the middle of its writing.
		rec := b.lot.byCode["SN0005"]
		u, err := b.lot.Reserve(t.Context(), rec, "4", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.lot.Move(t.Context(), u, Writing); err != nil {
			t.Fatal(err)
		}
		gone, err := b.lot.Reserve(t.Context(), b.lot.byCode["SN0006"], "2", "")
		if err != nil || gone.State != Reserved || len(before) == 0 {
			t.Fatal(err)
		}
		b.printer.set(nil)
		b.press.media["/dev/fake4"] = &Contents{Bytes: 1 << 30, Holds: HoldsMarker, Marker: u.Marker}
		b.begin(b.opt)
		defer b.end()
		pass(3 * time.Second)
		v, _ := b.View()
		if v.Slots[3].State != "interrupted" || v.Slots[0].State != "labelled" {
			t.Fatalf("%+v", v.Slots)
		}
		if got := b.lot.states(); !strings.Contains(got, "SN0006 failed") {
			t.Fatalf("a reservation without a byte stands: %s", got)
		}
		b.scan("SN0001.U1")
		b.places[3].plug()
		pass(12 * time.Second)
		if got := b.lot.states(); !strings.Contains(got, "SN0005 labelled") || !strings.Contains(got, "SN0001 confirmed") {
			t.Fatal(got)
		}
	})
}

// fakeMaker makes keys, and has a server that can be down.
type fakeMaker struct {
	lot  *fakeLot
	down error
}

func (m *fakeMaker) Stage(_ context.Context, rec *pipeline.Record) (*pipeline.Record, error) {
	m.lot.mu.Lock()
	defer m.lot.mu.Unlock()
	next := *rec
	next.State = pipeline.Staged
	return &next, nil
}

func (m *fakeMaker) Release(_ context.Context, rec *pipeline.Record) (*pipeline.Record, error) {
	m.lot.mu.Lock()
	defer m.lot.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	next := *rec
	next.State = pipeline.Released
	return &next, nil
}

func TestMakeHoldsTheLabel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var maker *fakeMaker
		b := newBench(t, 3, 2, func(b *bench, o *Options) {
			b.lot.make = true
			for _, rec := range b.lot.records {
				rec.State = pipeline.Planned
			}
			maker = &fakeMaker{lot: b.lot, down: &pipeline.Outage{Part: pipeline.PartServer, Err: errors.New("no route to the server")}}
			o.Maker = maker
		})
		defer b.end()
		b.places[0].plug()
		b.places[1].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(time.Second)
		b.scan("SN0002")
		pass(15 * time.Second)
		b.want("hold", "Keep the unit", "label prints by itself")
		b.wantUnits("SN0001 verified", "SN0002 verified")
		b.scan("SN0001.U1")
		b.wantUnits("SN0001 verified", "SN0002 verified")
		if len(b.printer.printed) != 0 {
			t.Fatalf("printed %v before the server said yes", b.printer.printed)
		}
		b.lot.mu.Lock()
		maker.down = nil
		b.lot.mu.Unlock()
		pass(20 * time.Second)
		b.want("pass")
		b.wantUnits("SN0001 labelled", "SN0002 labelled")
	})
}

func TestHSMDownStopsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 1, func(_ *bench, o *Options) {
			o.Maker = brokenMaker{}
			o.Call = map[string]string{"hsm": "Eve, 4712"}
		})
		defer b.end()
		b.places[0].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(time.Second)
		b.want("stopped", "token is gone", "Call Eve, 4712.")
		b.wantUnits()
	})
}

type brokenMaker struct{}

func (brokenMaker) Stage(context.Context, *pipeline.Record) (*pipeline.Record, error) {
	return nil, &pipeline.Outage{Part: pipeline.PartHSM, Err: errors.New("the token is gone")}
}

func (brokenMaker) Release(context.Context, *pipeline.Record) (*pipeline.Record, error) {
	return nil, errors.New("nothing was staged")
}

func TestByNextAndOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 2, func(_ *bench, o *Options) {
			o.ByNext, o.ByOperator, o.Labeller, o.Printer = true, true, nil, nil
		})
		defer b.end()
		b.places[0].plug()
		b.places[1].plug()
		pass(2 * time.Second)
		b.scan("NEXT")
		b.scan("NEXT") // read twice
		pass(time.Second)
		b.scan("NEXT")
		pass(time.Second)
		b.wantUnits("SN0001 writing", "SN0002 writing")
		pass(12 * time.Second)
		b.want("pass", "SN0001 is good")
		b.scan("DONE")
		b.want("pass", "SN0002 is good")
		b.scan("ACK")
		b.wantUnits("SN0001 confirmed", "SN0002 confirmed")
		b.places[0].pull()
		pass(2 * time.Second)
		b.want("ready", "No unit of this lot is left")
	})
}

func TestSupervisorScraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 1, withBadges(t))
		defer b.end()
		b.places[0].plug()
		b.scan("B1001")
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(12 * time.Second)
		b.scan("SN0001.U1")
		b.places[0].pull()
		pass(2 * time.Second)
		b.scan("SN0001")
		b.want("fail", "has its image already")
		b.scan("SUPERVISOR")
		b.want("supervisor", "scan your badge")
		b.scan("B1002")
		b.want("supervisor", "no supervisor's badge")
		b.scan("S2001")
		b.scan("4711")
		b.scan("REASON 1")
		b.wantUnits("SN0001 scrapped")
		b.press.blank("/dev/fake1")
		b.places[0].plug()
		pass(2 * time.Second)
		b.scan("SN0001")
		pass(12 * time.Second)
		b.scan("SN0001.U1") // the label of the scrapped unit
		b.wantUnits("SN0001 scrapped", "SN0001 labelled")
		b.scan("SN0001.U2")
		b.wantUnits("SN0001 scrapped", "SN0001 confirmed")
	})
}

func TestLedgerGoneStopsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 1, nil)
		defer b.end()
		b.places[0].plug()
		pass(2 * time.Second)
		b.lot.mu.Lock()
		b.lot.down = errors.New("disk I/O error")
		b.lot.mu.Unlock()
		b.scan("SN0001")
		b.want("stopped", "disk I/O error")
		b.lot.mu.Lock()
		b.lot.down = nil
		b.lot.mu.Unlock()
		pass(10 * time.Second)
		b.want("ready")
	})
}
