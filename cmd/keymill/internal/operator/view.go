package operator

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
)

// The screens.
const (
	screenBadge      = "badge"
	screenReady      = "ready"
	screenSlots      = "slots"
	screenPass       = "pass"
	screenFail       = "fail"
	screenStopped    = "stopped"
	screenHold       = "hold"
	screenSupervisor = "supervisor"
	screenReason     = "reason" // why a label is printed again
	screenEnd        = "end"
)

// State is what the API tells; scripts stand on it.
type State struct {
	Lot       string      `json:"lot"`
	Remaining int         `json:"remaining"`
	Made      int         `json:"made"`
	Failed    int         `json:"failed"`
	Line      string      `json:"line"` // running or stopped
	Slots     []SlotState `json:"slots"`
	Screen    string      `json:"screen"`
	Message   string      `json:"message"`
}

// SlotState is one slot of it.
type SlotState struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Device  string `json:"device"`
	Percent int    `json:"percent"`
	Label   string `json:"label"` // the printed code that confirms
}

// View is what the page shows: the same for everybody who looks.
type View struct {
	State
	Revision     int
	ScreenNumber int
	Grade        string // ok, busy, warn, fail, stop, hold: colour, shape and word
	Title        string // one or two words
	Action       string // one instruction
	Code         string
	Slot         string // that the screen is about
	More         string // what else waits
	Last         *Result
	Tone         tone
	Operator     string
	Yield        string
	Rate         string // seconds a unit
	Cards        []Card
	Buttons      []Button
	PIN          bool // a PIN is asked for
	Numbers      *Numbers
	Call         string
	Stopped      bool
}

// Keys are those of the pad that a PIN is entered on.
func (v *View) Keys() []string { return strings.Split("1234567890", "") }

// Result is what became of the last scan or unit.
type Result struct{ Grade, Text, Action, Code string }

// Card is a slot on the page.
type Card struct {
	SlotState
	Word    string // the state in a word
	Grade   string
	Detail  string
	Seconds int
	Place   string
	Focus   bool
}

// Button is a command that can be touched instead of scanned.
type Button struct{ Text, Scan, Kind string }

// shown is what makes one screen another one: progress doesn't.
func (v *View) shown() string {
	last := ""
	if v.Last != nil {
		last = v.Last.Text + "|" + v.Last.Action
	}
	return strings.Join([]string{v.Screen, v.Message, v.Action, v.Slot, v.Code, last, fmt.Sprint(v.PIN), v.Operator}, "\x00")
}

func (v *View) equal(w *View) bool {
	a, b := *v, *w
	a.Revision, b.Revision = 0, 0
	return reflect.DeepEqual(a, b)
}

// look makes the view of the present state.
func (st *Station) look() *View {
	v := &View{State: State{Lot: st.opt.Lot.Name(), Remaining: st.counts.Remaining, Made: st.counts.Made, Failed: st.counts.Failed, Line: "running"},
		Tone: st.tone, Operator: st.operatorName(), Stopped: len(st.stopped) > 0,
		Yield: fmt.Sprintf("%.0f %%", st.shift.yield())}
	if st.shift.cycles.n > 0 {
		v.Rate = fmt.Sprintf("%d s", int(st.shift.cycles.quantile(0.5).Seconds()+0.5))
	}
	if v.Stopped {
		v.Line = "stopped"
	}
	for _, s := range st.slots {
		card := s.card()
		card.Focus = s == st.focus
		v.Cards = append(v.Cards, card)
		v.Slots = append(v.Slots, card.SlotState)
	}
	st.lookAtScreen(v)
	if st.notice != nil && v.Screen != screenFail && v.Screen != screenEnd {
		v.Last = &Result{st.notice.grade, st.notice.text, st.notice.action, st.notice.code}
	}
	return v
}

// lookAtScreen chooses the one thing that the operator is told.
func (st *Station) lookAtScreen(v *View) {
	switch {
	case st.ended:
		st.showEnd(v)
	case st.opt.Badges != nil && st.person == nil:
		v.Screen, v.Grade, v.Title, v.Message, v.Action = screenBadge, "busy", "WHO", "Scan your badge", "Hold the scanner over your badge."
	case st.dialog != nil:
		st.showDialog(v)
	case st.notice != nil && (st.notice.sticky || st.notice.grade == "fail"):
		v.Screen, v.Grade, v.Title, v.Message, v.Action, v.Code = screenFail, "fail", "FAIL", st.notice.text, st.notice.action, st.notice.code
		v.Buttons = []Button{{"ACK", cmdAck, "main"}}
		if st.notice.taken != nil && st.opt.Badges != nil {
			v.Buttons = append(v.Buttons, Button{"Supervisor", cmdSupervisor, ""})
		}
	case len(st.stopped) > 0:
		st.showStopped(v)
	case st.learning != "":
		v.Screen, v.Grade, v.Title = screenSlots, "busy", "SLOT "+st.learning
		v.Message, v.Action = fmt.Sprintf("Plug a medium into slot %s now", st.learning), "Only this one. CANCEL ends it."
		v.Slot, v.Buttons = st.learning, []Button{{"Cancel", cmdCancel, ""}}
	default:
		st.showWork(v)
	}
}

// showWork shows what the line waits for: a label, a medium, or the next unit.
func (st *Station) showWork(v *View) {
	due := st.due()
	var waiting, starting, refused, interrupted, hold *slot
	for _, s := range st.slots {
		switch s.phase {
		case phaseWaiting:
			waiting = s
		case phaseStarting:
			starting = s
		case phaseRefused:
			if refused == nil || s.unit != nil {
				refused = s
			}
		case phaseInterrupted:
			interrupted = s
		case phaseHold:
			hold = s
		}
	}
	switch {
	case refused != nil && refused.unit != nil:
		st.showRefused(v, refused)
	case waiting != nil:
		v.Screen, v.Grade, v.Title, v.Slot = screenSlots, "busy", "SLOT "+waiting.name, waiting.name
		v.Message = fmt.Sprintf("Put a medium into slot %s", waiting.name)
		v.Action = fmt.Sprintf("For unit %s.", deviceName(waiting.unit.Record))
		v.Buttons = []Button{{"Cancel", cmdCancel, ""}}
	case due != nil && st.focusFree() == nil:
		st.showPass(v, due)
	case interrupted != nil:
		st.showInterrupted(v, interrupted)
	case refused != nil && st.focusFree() == nil:
		st.showRefused(v, refused)
	case hold != nil && st.freeSlot() == nil:
		v.Screen, v.Grade, v.Title, v.Slot = screenHold, "hold", "HOLD", hold.name
		v.Message = fmt.Sprintf("Keep the unit of slot %s: the server has not confirmed it yet", hold.name)
		v.Action = "Its label prints by itself. " + st.call("server")
	case starting != nil:
		v.Screen, v.Grade, v.Title, v.Slot = screenSlots, "busy", "SLOT "+starting.name, starting.name
		v.Message, v.Action = fmt.Sprintf("Slot %s starts", starting.name), fmt.Sprintf("Leave the medium of %s in.", deviceName(starting.unitRecord()))
	case st.freeSlot() == nil:
		v.Screen, v.Grade, v.Title, v.Message, v.Action = screenSlots, "busy", "WAIT", "All slots are in use", st.whenFree()
	default:
		st.showReady(v)
	}
}

// focusFree returns the slot that was chosen, if a new unit may go there.
func (st *Station) focusFree() *slot {
	if st.focus != nil && st.focus.free() {
		return st.focus
	}
	return nil
}

func (st *Station) showReady(v *View) {
	v.Screen, v.Grade, v.Title, v.Message, v.Action = screenReady, "ready", "READY", st.ask(), ""
	if s := st.focusFree(); s != nil {
		v.Slot, v.Action = s.name, "For slot "+s.name+"."
	}
	if st.counts.Remaining == 0 {
		v.Title, v.Message, v.Action = "DONE", "No unit of this lot is left", "Scan END."
	} else if st.opt.ByNext {
		v.Buttons = append(v.Buttons, Button{"Next", cmdNext, "main"})
	}
	v.Buttons = append(v.Buttons, Button{"End of shift", cmdEnd, ""})
}

// ask is the instruction of READY.
func (st *Station) ask() string {
	if st.opt.ByNext {
		return "Scan NEXT for the next unit"
	}
	return "Scan the next unit"
}

func (st *Station) showPass(v *View, s *slot) {
	v.Screen, v.Grade, v.Title, v.Slot = screenPass, "ok", "PASS", s.name
	name := deviceName(s.unit.Record)
	switch {
	case st.opt.ByOperator:
		v.Message, v.Action = fmt.Sprintf("Slot %s: unit %s is good", s.name, name), "Take it out, then scan DONE."
		v.Buttons = []Button{{"Done", cmdDone, "main"}}
	default:
		v.Message, v.Action = "Stick the label on, scan it", fmt.Sprintf("Slot %s: unit %s.", s.name, name)
	}
	if st.opt.Labeller != nil {
		v.Buttons = append(v.Buttons, Button{"Print again", cmdReprint, ""})
	}
	more := 0
	for _, other := range st.slots {
		if other != s && other.phase == phaseLabelled {
			more++
		}
	}
	if more > 0 {
		v.More = fmt.Sprintf("%d more after that", more)
	}
}

func (st *Station) showRefused(v *View, s *slot) {
	v.Screen, v.Grade, v.Title, v.Slot, v.Code = screenSlots, "warn", "SLOT "+s.name, s.name, "MEDIUM"
	v.Message = fmt.Sprintf("Slot %s: %s", s.name, sentence(s.problem))
	v.Action = "Take it out. Put a blank one in."
	if s.override && st.opt.Badges != nil {
		v.Buttons = []Button{{"Supervisor", cmdSupervisor, ""}}
	}
	if s.unit != nil {
		v.Buttons = append(v.Buttons, Button{"Cancel", cmdCancel, ""})
	}
}

func (st *Station) showInterrupted(v *View, s *slot) {
	v.Screen, v.Grade, v.Title, v.Slot, v.Code = screenSlots, "warn", "SLOT "+s.name, s.name, "INTERRUPTED"
	v.Message = fmt.Sprintf("Slot %s was interrupted: put the same medium back", s.name)
	v.Action = fmt.Sprintf("Unit %s. No other medium will do.", deviceName(s.unit.Record))
	switch {
	case s.program != nil || s.extra:
		v.Message, v.Action = fmt.Sprintf("Slot %s was interrupted", s.name), fmt.Sprintf("Unit %s: a supervisor has to scrap it.", deviceName(s.unit.Record))
	case s.have.Path != "" && s.problem != "":
		v.Action = "That one: " + sentence(s.problem) + "."
	}
	if st.opt.Badges != nil {
		v.Buttons = []Button{{"Supervisor", cmdSupervisor, ""}}
	}
}

func (st *Station) showStopped(v *View) {
	parts := make([]string, 0, len(st.stopped))
	for part := range st.stopped {
		parts = append(parts, part)
	}
	slices.Sort(parts)
	s := st.stopped[parts[0]]
	v.Screen, v.Grade, v.Title, v.Code = screenStopped, "stop", "LINE STOPPED", strings.ToUpper(s.part)
	v.Message, v.Action = sentence(s.text), st.call(s.part)
	waiting := 0
	for _, other := range st.slots {
		if other.phase == phaseVerified {
			waiting++
		}
	}
	if waiting > 0 {
		v.More = fmt.Sprintf("%d finished units wait in their slots. Leave them.", waiting)
	}
	if s.retry {
		v.Buttons = []Button{{"Try again", cmdAck, "main"}}
	}
}

// call says whom to call.
func (st *Station) call(part string) string {
	for _, key := range []string{part, map[string]string{"ledger": "disk", "storage": "disk"}[part], "all"} {
		if who := st.opt.Call[key]; who != "" {
			return "Call " + who + "."
		}
	}
	if part == "printer" {
		return "See to the printer. The line goes on by itself."
	}
	return "Call the line's engineer."
}

func (st *Station) showDialog(v *View) {
	d := st.dialog
	v.Screen, v.Grade, v.Title, v.Action = screenSupervisor, "warn", "SUPERVISOR", d.text+"?"
	switch d.step {
	case stepBadge:
		v.Message = "Supervisor: scan your badge"
	case stepPIN:
		v.Message, v.PIN = d.by.Name+": enter your PIN", true
	case stepReason:
		v.Message = "Why? Scan or touch a reason"
		if d.what == askReprint {
			v.Screen, v.Title, v.Grade = screenReason, "PRINT AGAIN", "busy"
		}
		for i, reason := range reasons[d.what] {
			v.Buttons = append(v.Buttons, Button{fmt.Sprintf("%d  %s", i+1, reason), fmt.Sprintf("%s %d", cmdReason, i+1), "main"})
		}
	}
	if d.wrong != "" {
		v.More = d.wrong
	}
	v.Buttons = append(v.Buttons, Button{"Cancel", cmdCancel, ""})
}

func (st *Station) showEnd(v *View) {
	v.Screen, v.Grade, v.Title = screenEnd, "ok", "END OF SHIFT"
	v.Message = say.Count(st.shift.made, "unit") + " made"
	v.Action = "Scan a badge to begin a shift."
	if st.opt.Badges == nil {
		v.Action = "Scan anything to begin a shift."
	}
	v.Numbers = st.numbers()
	v.Buttons = []Button{{"New shift", cmdAck, "main"}}
	if st.opt.Badges != nil {
		v.Buttons = nil
	}
}

// Numbers are a shift's.
type Numbers struct {
	Began    time.Time
	Made     int
	Failed   []CodeCount
	Yield    string
	Reprints int
	P50, P95 string
	By       []Row
	Slots    []Row
	First    string // p95 from scan to first byte
}

// CodeCount is how often a failure was.
type CodeCount struct {
	Code  string
	Count int
}

// Row is one operator's or slot's numbers.
type Row struct {
	Name         string
	Made, Failed int
	P50, P95     string
}

func (st *Station) numbers() *Numbers {
	s := st.shift
	n := &Numbers{Began: s.began, Made: s.made, Yield: fmt.Sprintf("%.1f %%", s.yield()), Reprints: s.reprints,
		P50: seconds(s.cycles.quantile(0.5)), P95: seconds(s.cycles.quantile(0.95)), By: rows(s.by), Slots: rows(s.slots),
		First: fmt.Sprintf("%d ms", st.latency.quantile(0.95).Milliseconds())}
	for code, count := range s.failed {
		n.Failed = append(n.Failed, CodeCount{code, count})
	}
	slices.SortFunc(n.Failed, func(a, b CodeCount) int { return strings.Compare(a.Code, b.Code) })
	return n
}

func rows(m map[string]*tally) []Row {
	var out []Row
	for name, t := range m {
		if name == "" {
			name = "-"
		}
		out = append(out, Row{name, t.Made, t.Failed, seconds(t.cycles.quantile(0.5)), seconds(t.cycles.quantile(0.95))})
	}
	slices.SortFunc(out, func(a, b Row) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// words say a slot's state to people, with its grade.
var words = map[phase][2]string{
	phaseEmpty: {"empty", "idle"}, phaseLooking: {"looking", "busy"}, phaseReady: {"ready", "idle"},
	phaseRefused: {"not this medium", "warn"}, phaseWaiting: {"put medium in", "warn"}, phaseStarting: {"starting", "busy"},
	phaseWriting: {"writing", "busy"}, phaseComparing: {"comparing", "busy"}, phaseHold: {"hold", "hold"},
	phaseVerified: {"label prints", "busy"}, phaseLabelled: {"scan label", "ok"}, phaseDone: {"take it out", "ok"},
	phaseFailed: {"failed", "fail"}, phaseInterrupted: {"interrupted", "warn"}, phaseUnusable: {"out of use", "fail"},
}

func (s *slot) unitRecord() *pipeline.Record {
	if s.unit == nil {
		return nil
	}
	return s.unit.Record
}

// card shows the slot.
func (s *slot) card() Card {
	word := words[s.phase]
	c := Card{SlotState: SlotState{Name: s.name, State: string(s.phase), Percent: s.percent}, Word: word[0], Grade: word[1], Place: s.place.String()}
	if s.unit != nil {
		c.Device = deviceName(s.unit.Record)
		if s.phase == phaseLabelled {
			c.Label = s.unit.Label
		}
	}
	if s.phase == phaseWriting || s.phase == phaseComparing {
		c.Seconds = int(s.eta.Seconds() + 0.5)
	}
	if s.problem != "" && s.phase != phaseReady && s.phase != phaseEmpty {
		c.Detail = sentence(s.problem)
	}
	return c
}
