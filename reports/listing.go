package reports

import (
	"fmt"
	"strings"

	"keymill/pipeline"
)

// listing checks devices.jsonl against the replayed events.
type listing struct {
	*replay
	row     int // of the line before
	balance Balance
	totals  pipeline.Totals
}

func (l *listing) device(d *deviceLine) error {
	if d.Row <= l.row {
		return fmt.Errorf("row %d comes after row %d", d.Row, l.row)
	}
	l.row = d.Row
	if err := checkKey(d); err != nil {
		return err
	}
	if l.agree != nil {
		if err := l.agree.device(d); err != nil {
			return err
		}
	}
	t, err := l.compare(d)
	if err != nil {
		return err
	}
	t.marks |= traceListed
	if d.SPKISHA256 != "" {
		t.marks |= traceKeyed
	}
	l.balance.add(d.standing())
	l.totals.Devices++
	if n := l.totals.Count(d.State); n != nil {
		*n++
	}
	l.totals.Keys.Generated += d.KeysGenerated
	l.totals.Keys.Destroyed += d.KeysDestroyed
	if d.State == pipeline.Released && len(d.PublicKey) > 0 {
		l.totals.Keys.Released++
	}
	return nil
}

// checkKey checks that the fingerprint is that of the key.
func checkKey(d *deviceLine) error {
	if len(d.PublicKey) == 0 {
		if d.SPKISHA256 != "" {
			return fmt.Errorf("row %d has a fingerprint, but no key", d.Row)
		}
		return nil
	}
	if pipeline.Fingerprint(d.PublicKey) != d.SPKISHA256 {
		return fmt.Errorf("row %d: the fingerprint is not that of its public key", d.Row)
	}
	return nil
}

// compare holds a listed device against what its events say, and returns its
// trace: a device that has no events gets one, as it is listed.
func (l *listing) compare(d *deviceLine) (*trace, error) {
	id, spki := l.traces.shortSum(identitySum(d.Identity)), l.traces.short([]byte(d.SPKISHA256))
	t := l.traces.of(d.Row)
	if t == nil {
		if d.State != pipeline.Planned {
			return nil, fmt.Errorf("row %d is %s, but no event says so", d.Row, d.State)
		}
		t, err := l.traces.add(d.Row)
		if err == nil {
			t.identity, t.spki = id, spki
		}
		return t, err
	}
	state, staged, destroyed := pipeline.States[t.state], int(t.staged), int(t.destroyed)
	switch {
	case t.identity != id:
		return nil, fmt.Errorf("row %d is another device than in its events", d.Row)
	case state != d.State:
		return nil, fmt.Errorf("row %d is listed as %s, its events say %s", d.Row, d.State, state)
	case d.SPKISHA256 != "" && t.spki != spki:
		return nil, fmt.Errorf("row %d is listed with another key than its events say", d.Row)
	case d.KeysGenerated < staged || d.KeysGenerated > staged+destroyed || d.KeysDestroyed < destroyed:
		return nil, fmt.Errorf("row %d: %d keys made and %d destroyed are listed, its events say %d and %d",
			d.Row, d.KeysGenerated, d.KeysDestroyed, staged, destroyed)
	}
	if err := checkSum(d.OutputSHA256); err != nil {
		return nil, err
	}
	if d.State == pipeline.Released && t.output != l.traces.short(outputText(l.agree != nil, d.OutputName, d.OutputBytes, d.OutputSHA256)) {
		return nil, fmt.Errorf("row %d is listed with another image than its events say", d.Row)
	}
	if l.agree != nil {
		return t, l.said(t, d)
	}
	return t, nil
}

// said compares what else the list and the last events both say of a device.
func (l *listing) said(t *trace, d *deviceLine) error {
	serial := d.Attributes["serial"]
	switch {
	case t.marks&traceSerial != 0 && t.serial != l.traces.short([]byte(serial)):
		return fmt.Errorf("row %d is listed with another serial than its events say", d.Row)
	case t.updated != 0 && absolute(d.Updated.UnixMicro()-t.updated) > clockSkew.Microseconds():
		return fmt.Errorf("row %d is listed as of %s, its last event is of another time", d.Row, d.Updated.Format(timeForm))
	case t.said != (short{}) && t.said != l.traces.short(saidText(d.Station, int64(d.Attempts), d.Reason)):
		return fmt.Errorf("row %d is listed with another station, attempt or reason than its events say", d.Row)
	case (d.State == pipeline.Released || d.State == pipeline.Preauthorized) &&
		t.auth != l.traces.short(authText(d.ServerDeviceID, d.AuthSetID, d.RequestID, int64(d.HTTPStatus))):
		return fmt.Errorf("row %d is listed with another answer of the server than its events say", d.Row)
	}
	return nil
}

func absolute(n int64) int64 { return max(n, -n) }

// saidText is what a change and devices.jsonl both say. Databases keep NUL as
// U+FFFD.
func saidText(station string, attempt int64, reason string) []byte {
	return fmt.Appendf(nil, "%q %d %q", station, attempt, strings.ReplaceAll(reason, "\x00", "\uFFFD"))
}

// finish compares the sums.
func (l *listing) finish() error {
	p := l.v.st.Predicate
	l.v.report.Devices = l.totals.Devices
	if row, found := l.traces.unlisted(); found {
		return flawed(fileDevices, "row %d has events, but is not listed", row)
	}
	if a, b, found := l.traces.twins(traceListed, func(t *trace) *short { return &t.identity }); found {
		return flawed(fileDevices, "rows %d and %d are the same device", a, b)
	}
	if a, b, found := l.traces.twins(traceListed|traceKeyed, func(t *trace) *short { return &t.spki }); found {
		return flawed(fileDevices, "rows %d and %d have the same key", a, b)
	}
	l.totals.Lot = p.Lot
	if l.totals != p.Totals {
		return flawed(fileDevices, "the devices add up to other totals than the statement says")
	}
	if l.balance != p.Balance {
		return flawed(fileDevices, "the devices make another balance than the statement says")
	}
	if wrong := l.balance.Check(p.Devices); (len(wrong) == 0) != p.Reconciles {
		return flawed(fileStatement, "says that the lot reconciles: %v, but %v", p.Reconciles, wrong)
	}
	return nil
}
