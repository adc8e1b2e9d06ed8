package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// phase is what a slot is about. The words are those of the API.
type phase string

const (
	phaseEmpty       phase = "empty"
	phaseLooking     phase = "looking" // a medium came; what it holds is being read
	phaseReady       phase = "ready"
	phaseRefused     phase = "refused" // the medium is somebody else's, or doesn't fit
	phaseWaiting     phase = "waiting" // for a medium, with a unit
	phaseStarting    phase = "starting"
	phaseWriting     phase = "writing"
	phaseComparing   phase = "comparing"
	phaseHold        phase = "hold"     // verified; the server has not said yes yet
	phaseVerified    phase = "verified" // waits for its label
	phaseLabelled    phase = "labelled" // waits for its confirmation
	phaseDone        phase = "done"     // confirmed; the medium may go
	phaseFailed      phase = "failed"
	phaseInterrupted phase = "interrupted"
	phaseUnusable    phase = "unusable" // the slot itself
)

// busy reports whether somebody works on the slot just now.
func (p phase) busy() bool {
	return p == phaseStarting || p == phaseWriting || p == phaseComparing || p == phaseHold
}

// slot is one place for a medium. The station's lock guards it.
type slot struct {
	name    string
	place   Place
	program *Program
	extra   bool // made for a unit whose slot is gone

	phase    phase
	have     Presence
	contents Contents
	allowed  string // seq of a medium that a supervisor let through
	problem  string // why the medium or the slot is refused
	override bool   // a supervisor may let the medium through

	unit     *Unit
	sticker  string // as it was scanned
	label    []byte // what is printed
	scanned  time.Time
	percent  int
	eta      time.Duration
	stepped  time.Time // since when the present step goes
	again    bool      // a reprint
	resumed  bool
	printed  bool // the printer has the label, but has not said that it is out
	stopWork context.CancelFunc
	pulled   bool
}

func newSlot(o SlotOptions, places Places, learnt map[string]string) (*slot, error) {
	s := &slot{name: o.Name, place: o.Place, program: o.Program, phase: phaseEmpty}
	switch {
	case s.place != nil:
	case s.program != nil:
		s.place = programPlace{o.Name}
	case learnt[o.Name] != "":
		place, err := places.Port(learnt[o.Name])
		if err != nil {
			return nil, err
		}
		s.place = place
	default:
		s.place = learnable{}
	}
	return s, nil
}

// needsMedium reports whether something is plugged in, which can be looked at.
func (s *slot) needsMedium() bool {
	_, file := s.place.(*filePlace)
	return s.program == nil && !file
}

// free reports whether a unit could go here.
func (s *slot) free() bool {
	return s.unit == nil && !s.extra && (s.phase == phaseReady || s.phase == phaseEmpty || s.phase == phaseLooking)
}

// clear forgets the unit.
func (s *slot) clear() {
	*s = slot{name: s.name, place: s.place, program: s.program, extra: s.extra, phase: phaseEmpty, have: s.have, contents: s.contents, allowed: s.allowed}
}

// lookAtSlots notices media that came, went or were changed.
func (st *Station) lookAtSlots() {
	if st.learning != "" {
		st.learn()
	}
	for _, s := range st.slots {
		if s.extra {
			continue
		}
		now := s.place.Look()
		if now == s.have && s.phase != phaseEmpty {
			continue
		}
		was := s.have
		s.have = now
		switch {
		case now.Problem != "":
			st.unusable(s, now.Problem)
		case now.Path == "":
			st.left(s)
		case now.Seq != was.Seq || s.phase == phaseEmpty || s.phase == phaseUnusable:
			if was.Path != "" && was.Seq != now.Seq {
				st.left(s)
			}
			st.came(s)
		}
	}
}

func (st *Station) unusable(s *slot, problem string) {
	st.left(s)
	if s.unit == nil {
		s.phase = phaseUnusable
	}
	s.problem = problem
}

// left handles a medium that is gone.
func (st *Station) left(s *slot) {
	switch s.phase {
	case phaseStarting, phaseWriting, phaseComparing:
		s.pulled = true
		if s.stopWork != nil {
			s.stopWork()
		}
	case phaseDone, phaseFailed:
		if s.unit == nil || s.phase == phaseDone || s.unit.State == Failed || s.unit.State == Scrapped {
			s.clear()
		}
	case phaseReady, phaseLooking, phaseRefused, phaseUnusable:
		s.phase, s.problem, s.override = phaseEmpty, "", false
		if s.unit != nil {
			s.phase = phaseWaiting
			if s.unit.State == Writing {
				s.phase = phaseInterrupted
			}
		}
	}
	s.contents = Contents{}
}

// came handles a medium that is new in its slot.
func (st *Station) came(s *slot) {
	switch s.phase {
	case phaseEmpty, phaseUnusable, phaseWaiting, phaseInterrupted, phaseRefused, phaseReady, phaseLooking:
	default: // a unit is being finished here; the next medium has come too early
		return
	}
	if s.program != nil {
		if s.unit == nil {
			s.phase = phaseReady
		} else if s.phase == phaseWaiting {
			st.begin(s)
		}
		return
	}
	before := s.phase
	if before == phaseEmpty || before == phaseUnusable {
		s.phase = phaseLooking
	}
	seq := s.have.Seq
	path, unit := s.have.Path, s.unit
	st.spawn(func(ctx context.Context) {
		ctx, stop := context.WithTimeout(ctx, 20*time.Second)
		defer stop()
		var contents Contents
		var err error
		if unit != nil {
			contents, err = st.opt.Press.Look(ctx, path, unit.Record)
		} else {
			contents, err = st.opt.Press.Look(ctx, path, nil)
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		if s.have.Seq != seq || s.phase.busy() {
			return
		}
		st.looked(s, contents, err)
		st.publish()
	})
}

// looked decides about a medium by what it holds.
func (st *Station) looked(s *slot, c Contents, err error) {
	s.contents, s.problem, s.override = c, "", false
	if err == nil {
		err = st.judge(s, c)
	}
	refused, ok := errors.AsType[*refusal](err)
	switch {
	case ok:
		s.problem, s.override = refused.text, refused.override
		if s.unit == nil || s.unit.State != Writing {
			s.phase = phaseRefused
		}
		st.play("bad")
		return
	case err != nil:
		s.problem = "the medium can't be read: " + err.Error()
		if s.unit == nil || s.unit.State != Writing {
			s.phase = phaseRefused
		}
		st.play("bad")
		return
	}
	if s.unit != nil {
		st.begin(s)
		return
	}
	s.phase = phaseReady
	// A unit that waits for a medium takes whichever free slot got one.
	for _, other := range st.slots {
		if other != s && other.phase == phaseWaiting {
			s.unit, s.sticker, s.label, s.scanned = other.unit, other.sticker, other.label, other.scanned
			s.unit.Slot = s.name
			other.clear()
			st.begin(s)
			return
		}
	}
}

// refusal says why a medium is not taken.
type refusal struct {
	text     string
	override bool // a supervisor may let it through
}

func (e *refusal) Error() string { return e.text }

// judge decides whether the slot's unit, or a new one, may be written to a medium.
func (st *Station) judge(s *slot, c Contents) error {
	if s.unit != nil && s.unit.State == Writing { // interrupted
		_, file := s.place.(*filePlace)
		stayed := s.unit.SameBoot && strings.HasSuffix(s.unit.Medium, seenAs(s.have.Seq))
		if stayed || c.Holds == HoldsOwn || c.Holds == HoldsMarker && c.Marker == s.unit.Marker || file && c.Holds == HoldsNothing {
			s.resumed = true
			return nil
		}
		return &refusal{text: "this is not the medium that was interrupted"}
	}
	if need := st.opt.Press.Need(); s.needsMedium() && c.Bytes < need {
		return &refusal{text: fmt.Sprintf("it is too small: %s, and the image has %s", megabytes(c.Bytes), megabytes(need))}
	}
	allowed := s.allowed != "" && s.allowed == s.have.Seq
	switch {
	case allowed:
		return nil
	case st.opt.Largest > 0 && c.Bytes > st.opt.Largest:
		return &refusal{text: fmt.Sprintf("it is larger than media of this lot: %s", megabytes(c.Bytes)), override: true}
	case c.Holds == HoldsMarker:
		return &refusal{text: "it belongs to a unit whose writing was interrupted", override: true}
	case c.Holds == HoldsGolden || c.Holds == HoldsOwn:
		return &refusal{text: "it holds another unit's image", override: true}
	case c.Holds != HoldsNothing:
		return &refusal{text: "it is not blank: " + c.Detail, override: true}
	}
	return nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// learn looks for a medium at a port that had none, and makes the port the
// slot's.
func (st *Station) learn() {
	now := st.opt.Places.Ports()
	for port, seq := range now {
		if st.ports[port] == seq {
			continue
		}
		s := st.slotNamed(st.learning)
		place, err := st.opt.Places.Port(port)
		if s == nil || err != nil {
			continue
		}
		for _, other := range st.slots {
			if p, ok := other.place.(*portPlace); ok && p.port == port && other != s {
				st.say("fail", "SLOT", fmt.Sprintf("That is slot %s already.", other.name), "Plug the medium into slot "+s.name+".")
				st.ports = now
				return
			}
		}
		s.place, s.have, s.phase, s.problem = place, Presence{}, phaseEmpty, ""
		st.learning = ""
		if err := st.saveLearnt(); err != nil {
			st.say("fail", "SLOT", "The place was learnt, but can't be kept: "+err.Error(), "Call the line's engineer.")
			return
		}
		st.say("ok", "", fmt.Sprintf("Slot %s is port %s.", s.name, port), "Take the medium out and go on.")
		return
	}
	st.ports = now
}

func readLearnt(path string) (map[string]string, error) {
	learnt := map[string]string{}
	data, err := os.ReadFile(path)
	if path == "" || errors.Is(err, os.ErrNotExist) {
		return learnt, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &learnt)
	}
	if err != nil {
		return nil, fmt.Errorf("read which port is which slot's: %w", err)
	}
	return learnt, nil
}

func (st *Station) saveLearnt() error {
	if st.opt.Learnt == "" {
		return errors.New("no file is set for it")
	}
	learnt := map[string]string{}
	for _, s := range st.slots {
		if p, ok := s.place.(*portPlace); ok {
			learnt[s.name] = p.port
		}
	}
	data, err := json.MarshalIndent(learnt, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(st.opt.Learnt+".part", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(st.opt.Learnt+".part", st.opt.Learnt)
}
