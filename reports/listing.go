package reports

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"keymill/pipeline"
)

// listing checks devices.jsonl against the replayed events.
type listing struct {
	*replay
	row        int // of the line before
	identities map[pipeline.IdentitySum]int
	keys       map[[sha256.Size]byte]int
	balance    Balance
	totals     pipeline.Totals
}

func (l *listing) device(d *deviceLine) error {
	if d.Row <= l.row {
		return fmt.Errorf("row %d comes after row %d", d.Row, l.row)
	}
	l.row = d.Row
	id := identitySum(d.Identity)
	if other, ok := l.identities[id]; ok {
		return fmt.Errorf("rows %d and %d are the same device", other, d.Row)
	}
	l.identities[id] = d.Row
	if err := l.key(d); err != nil {
		return err
	}
	if err := l.compare(d, id); err != nil {
		return err
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

// key checks that the fingerprint is that of the key, and the key nobody else's.
func (l *listing) key(d *deviceLine) error {
	if len(d.PublicKey) == 0 {
		if d.SPKISHA256 != "" {
			return fmt.Errorf("row %d has a fingerprint, but no key", d.Row)
		}
		return nil
	}
	sum := sha256.Sum256(d.PublicKey)
	if hex.EncodeToString(sum[:]) != d.SPKISHA256 {
		return fmt.Errorf("row %d: the fingerprint is not that of its public key", d.Row)
	}
	if other, ok := l.keys[sum]; ok {
		return fmt.Errorf("rows %d and %d have the same key", other, d.Row)
	}
	l.keys[sum] = d.Row
	return nil
}

// compare holds a listed device against what its events say.
func (l *listing) compare(d *deviceLine, id pipeline.IdentitySum) error {
	t := l.rows[d.Row]
	if t == nil {
		if d.State != pipeline.Planned {
			return fmt.Errorf("row %d is %s, but no event says so", d.Row, d.State)
		}
		return nil
	}
	t.seen = true
	switch {
	case t.identity != id:
		return fmt.Errorf("row %d is another device than in its events", d.Row)
	case t.state != d.State:
		return fmt.Errorf("row %d is listed as %s, its events say %s", d.Row, d.State, t.state)
	case d.SPKISHA256 != "" && hex.EncodeToString(t.spki[:]) != d.SPKISHA256:
		return fmt.Errorf("row %d is listed with another key than its events say", d.Row)
	case d.KeysGenerated < t.staged || d.KeysGenerated > t.staged+t.destroyed || d.KeysDestroyed < t.destroyed:
		return fmt.Errorf("row %d: %d keys made and %d destroyed are listed, its events say %d and %d",
			d.Row, d.KeysGenerated, d.KeysDestroyed, t.staged, t.destroyed)
	}
	var output [sha256.Size]byte
	if err := decodeSum(&output, d.OutputSHA256); err != nil {
		return err
	}
	if d.State == pipeline.Released && output != t.output {
		return fmt.Errorf("row %d is listed with another image than its events say", d.Row)
	}
	return nil
}

// finish compares the sums.
func (l *listing) finish() error {
	p := l.v.st.Predicate
	l.v.report.Devices = l.totals.Devices
	for row, t := range l.rows {
		if !t.seen {
			return flawed(fileDevices, "row %d has events, but is not listed", row)
		}
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
