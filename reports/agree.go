package reports

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"keymill/pipeline"
)

// agreement compares what the statement, the events of the lot and the list of
// devices say of the same thing.
type agreement struct {
	v       *verifier
	planned *eventLine
	closed  *eventLine                // the last lot-closed event
	after   bool                      // a device has changed since
	runs    map[string]map[int64]bool // by station: seq of each run-started event
	counts  [16]int                   // devices by state; see pipeline.States
	kept    int                       // keys that were given up and not destroyed
	strange map[string]int            // events of unknown actions

	roster hash.Hash
	unique []string
	values map[string][]valueOf // by attribute
}

// valueOf is one device's value of a unique attribute, shortened.
type valueOf struct {
	value short
	row   int
}

func newAgreement(v *verifier) *agreement {
	return &agreement{v: v, runs: map[string]map[int64]bool{}, strange: map[string]int{}, roster: sha256.New(), values: map[string][]valueOf{}}
}

// Actions of a lot's events that are of no device, and those that are of one.
func lotAction(action string) bool {
	return slices.Contains([]string{pipeline.ActionPlan, pipeline.ActionRun, pipeline.ActionVerify, pipeline.ActionRunEnd,
		pipeline.ActionClose, pipeline.ActionPrune, pipeline.ActionExport, actionContinued, actionRestarted}, action)
}

func deviceAction(action string) bool {
	return strings.HasPrefix(action, "unit-") || slices.Contains([]string{pipeline.ActionStage, pipeline.ActionPreauthorize,
		pipeline.ActionRelease, pipeline.ActionFail, pipeline.ActionConflict, pipeline.ActionDestroyKey, pipeline.ActionRekey,
		pipeline.ActionUndo, pipeline.ActionFlash, "rma", "key-adopted"}, action)
}

// event takes one event of the lot. Where one log has all of them, they come as
// they happened, and sums on the way can be compared.
func (a *agreement) event(e *eventLine, head LogHead, alone bool) error {
	switch ofDevice := e.Row != 0 || len(e.Device) > 0 || e.From != "" || e.To != "" || e.Unit != 0; {
	case ofDevice && (e.Row == 0 || len(e.Device) == 0 || lotAction(e.Action)):
		return fmt.Errorf("an event %q of a device without its row, or of a lot with one", e.Action)
	case deviceAction(e.Action) && !ofDevice:
		return fmt.Errorf("an event %q without a device", e.Action)
	case a.planned == nil && !slices.Contains([]string{pipeline.ActionPlan, actionContinued, actionRestarted}, e.Action) && alone:
		return fmt.Errorf("an event %q before the lot was planned", e.Action)
	case e.Run != 0 && head.Kind == KindLot && head.Epoch == 1 && !a.runs[e.Station][e.Run] && !a.hasLegacy():
		return fmt.Errorf("is of run %d, which was not started", e.Run)
	case !ofDevice && !lotAction(e.Action), ofDevice && !deviceAction(e.Action):
		if e.From != "" || e.To != "" || e.SPKISHA256 != "" || e.OutputSHA256 != "" {
			return fmt.Errorf("an event of the unknown action %.40q", e.Action)
		}
		a.strange[e.Action]++
	}
	return a.lotEvent(e, head, alone)
}

func (a *agreement) hasLegacy() bool {
	return slices.ContainsFunc(a.v.st.Predicate.Logs, func(h LogHead) bool { return h.Kind == KindLegacy })
}

func (a *agreement) lotEvent(e *eventLine, head LogHead, alone bool) error {
	switch e.Action {
	case pipeline.ActionPlan:
		return a.plan(e, head)
	case pipeline.ActionRun:
		if a.runs[e.Station] == nil {
			a.runs[e.Station] = map[int64]bool{}
		}
		a.runs[e.Station][e.Seq] = true
		return a.run(e)
	case pipeline.ActionRunEnd:
		if alone {
			return a.totals(e)
		}
	case pipeline.ActionClose:
		a.closed, a.after = e, false
		return a.balance(e, alone)
	}
	return nil
}

// plan compares what the lot was planned as with the statement.
func (a *agreement) plan(e *eventLine, head LogHead) error {
	if a.planned != nil {
		return errors.New("the lot was planned twice")
	}
	if head.Kind == KindLot && (e.Seq != 1 || head.Epoch != 1) {
		return fmt.Errorf("the lot was planned in event %d, after others", e.Seq)
	}
	a.planned = e
	p := a.v.st.Predicate
	a.counts[0] = p.Devices
	if got := e.fact("devices"); got != strconv.Itoa(p.Devices) {
		return fmt.Errorf("%s devices were planned, the statement says %d", got, p.Devices)
	}
	a.unique = strings.Split(cmp.Or(e.fact("unique"), "serial"), ",")
	if id := e.fact("identity"); id != strings.Join(p.Columns.Identity, ",") {
		return fmt.Errorf("the lot was planned with the identity %q, the statement says %q", id, strings.Join(p.Columns.Identity, ","))
	}
	return a.same(e, map[string]string{"manifest_sha256": a.subject("manifest"), "golden_sha256": a.subject("golden"),
		"inject_sha256": p.Injection, "format": p.Format})
}

// run compares what a run worked with to the statement.
func (a *agreement) run(e *eventLine) error {
	p := a.v.st.Predicate
	return a.same(e, map[string]string{"manifest_sha256": a.subject("manifest"), "golden_sha256": a.subject("golden"),
		"inject_sha256": p.Injection, "format": p.Format, "server": p.Server, "keys": p.Keys, "algorithm": p.Algorithm})
}

// same compares facts with what the statement says. A fact that is missing says
// nothing: an undoing, for one, has no golden image.
func (a *agreement) same(e *eventLine, said map[string]string) error {
	for _, f := range e.Facts {
		if want, ok := said[f.Name]; ok && want != f.Value {
			return fmt.Errorf("event %d (%s) says %s %q, the statement %q", e.Seq, e.Action, f.Name, f.Value, want)
		}
	}
	return nil
}

// subject returns the hash under which the statement names a subject.
func (a *agreement) subject(name string) string {
	for _, s := range a.v.st.Subject {
		if s.Name == name {
			return s.Digest["sha256"]
		}
	}
	return ""
}

// moved counts a device's change of state, and keeps what the list must say.
func (a *agreement) moved(t *trace, e *eventLine) {
	a.after = true
	if to := slices.Index(pipeline.States, e.To); to >= 0 {
		a.counts[t.state]--
		a.counts[to]++
	}
	t.updated = e.Time.UnixMicro()
	reason := ""
	if e.To == pipeline.Failed || e.To == pipeline.Conflicted {
		reason = e.Reason
	}
	r := a.v.shorts()
	if e.Action == pipeline.ActionDestroyKey {
		t.said = short{} // station and reason may be those of before
	} else {
		t.said = r.short(saidText(e.Station, e.Attempt, reason))
	}
	if e.Serial != "" {
		t.serial = r.short([]byte(e.Serial))
		t.marks |= traceSerial
	}
	if (e.Action == pipeline.ActionUndo || e.Action == pipeline.ActionRekey) && e.SPKISHA256 != "" && e.Key != "destroyed" {
		a.kept++
	}
}

// unit follows the physical things that a device's image went to: two live ones
// with one key are clones.
func (a *agreement) unit(t *trace, e *eventLine) error {
	switch e.Action {
	case pipeline.ActionReserveUnit, pipeline.ActionTakeBackUnit:
		if t.unit != 0 {
			return fmt.Errorf("row %d: unit %d while unit %d is live: a clone", e.Row, e.Unit, t.unit)
		}
		if e.Unit <= 0 || e.Unit > math.MaxUint32 {
			return fmt.Errorf("row %d: there can be no unit %d", e.Row, e.Unit)
		}
		t.unit = uint32(e.Unit)
	case pipeline.ActionFailUnit, pipeline.ActionScrapUnit:
		if int64(t.unit) == e.Unit {
			t.unit = 0
		}
	}
	return nil
}

// totals compares the states that a run's end counts.
func (a *agreement) totals(e *eventLine) error {
	for i, state := range pipeline.States {
		if said := e.fact(string(state)); said != "" && said != strconv.Itoa(a.counts[i]) {
			return fmt.Errorf("event %d (%s) counts %s devices as %s, its events make %d", e.Seq, e.Action, said, state, a.counts[i])
		}
	}
	return nil
}

// balance compares the account with which the lot was closed.
func (a *agreement) balance(e *eventLine, alone bool) error {
	b, err := e.balance()
	if err != nil {
		return err
	}
	p := a.v.st.Predicate
	if b.Rows != p.Devices {
		return fmt.Errorf("event %d (%s) is of %d devices, the statement of %d", e.Seq, e.Action, b.Rows, p.Devices)
	}
	if !alone {
		return nil
	}
	for state, said := range map[pipeline.State]int{pipeline.Released: b.Released, pipeline.Failed: b.Failed,
		pipeline.Conflicted: b.Conflict, pipeline.Undone: b.Undone} {
		if n := a.counts[slices.Index(pipeline.States, state)]; n != said {
			return fmt.Errorf("event %d (%s) counts %d devices as %s, its events make %d", e.Seq, e.Action, said, state, n)
		}
	}
	return nil
}

// balance reads the account of a lot-closed event.
func (e *eventLine) balance() (Balance, error) {
	var b Balance
	text := e.fact("balance")
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return b, fmt.Errorf("event %d (%s) has no balance", e.Seq, e.Action)
	}
	if again, err := json.Marshal(b); err != nil || string(again) != text {
		return b, fmt.Errorf("event %d (%s): its balance is not in the form in which it is written", e.Seq, e.Action)
	}
	return b, nil
}

// finish compares what the whole of the events says with the statement.
func (a *agreement) finish(*replay) error {
	p := a.v.st.Predicate
	if a.planned == nil {
		return flawed(fileEvents, "no event says that the lot was planned")
	}
	if err := nearTime(p.Planned, a.planned.Time); err != nil {
		return flawed(fileStatement, "the lot was planned at %s, as the statement says: %v", p.Planned, err)
	}
	if (p.Closed != "") != (a.closed != nil) {
		return flawed(fileStatement, "says that the lot was closed at %q, its events say otherwise", p.Closed)
	}
	if a.closed != nil {
		if err := nearTime(p.Closed, a.closed.Time); err != nil {
			return flawed(fileStatement, "the lot was closed at %s, as the statement says: %v", p.Closed, err)
		}
		if b, err := a.closed.balance(); err != nil || !a.after && b != p.Balance {
			return flawed(fileStatement, "says another balance than the event that closed the lot")
		}
	}
	for i, state := range pipeline.States {
		if n := *p.Totals.Count(state); n != a.counts[i] {
			return flawed(fileStatement, "says %d devices are %s, the events make %d", n, state, a.counts[i])
		}
	}
	if a.kept > 0 {
		a.v.report.remark("%d keys that were given up were not found or not destroyed; the events say which", a.kept)
	}
	for action, n := range a.strange {
		a.v.report.remark("%d events %q are of an action that this program does not know", n, action)
	}
	return nil
}

// nearTime compares two sayings of one time.
func nearTime(said string, is time.Time) error {
	t, err := time.Parse(timeForm, said)
	if err != nil {
		return errors.New("not a time")
	}
	if absolute(t.Sub(is).Microseconds()) > clockSkew.Microseconds() {
		return fmt.Errorf("the event is of %s", is.Format(timeForm))
	}
	return nil
}

// device takes a listed device for the roster and its unique values.
func (a *agreement) device(d *deviceLine) error {
	fmt.Fprintf(a.roster, "%d\t%s\t%s\n", d.Row, attrsJSON(d.Identity), attrsJSON(d.Attributes))
	for name, value := range d.Identity {
		if other, ok := d.Attributes[name]; ok && other != value {
			return fmt.Errorf("row %d has two values of %q", d.Row, name)
		}
	}
	for _, name := range a.unique {
		if value := d.Attributes[name]; value != "" {
			a.values[name] = append(a.values[name], valueOf{a.v.shorts().short([]byte(value)), d.Row})
		}
	}
	return nil
}

func attrsJSON(m map[string]string) []byte {
	attrs := make(pipeline.Identity, 0, len(m))
	for name, value := range m {
		attrs = append(attrs, pipeline.Attr{Name: name, Value: value})
	}
	return attrs.JSON()
}

// listed compares the list of devices as a whole.
func (a *agreement) listed() error {
	p := a.v.st.Predicate
	if a.v.report.Devices != p.Devices {
		return flawed(fileDevices, "lists %d devices, %d were planned", a.v.report.Devices, p.Devices)
	}
	switch sum := a.planned.fact("roster_sha256"); {
	case sum == "":
		a.v.report.remark("the lot was planned by an older keymill, which did not record what the manifest said of each device: serials and other attributes are as the station lists them")
	case sum != hex.EncodeToString(a.roster.Sum(nil)):
		return flawed(fileDevices, "lists other devices or attributes than were planned")
	}
	for name, values := range a.values {
		slices.SortFunc(values, func(x, y valueOf) int {
			return cmp.Or(bytes.Compare(x.value[:], y.value[:]), cmp.Compare(x.row, y.row))
		})
		for i := 1; i < len(values); i++ {
			if values[i].value == values[i-1].value {
				return flawed(fileDevices, "rows %d and %d have the same %q", values[i-1].row, values[i].row, name)
			}
		}
	}
	return nil
}
