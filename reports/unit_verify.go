package reports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keymill/pipeline"
)

// Device is what a proof says about one returned unit.
type Device struct {
	Lot        string            `json:"lot"`
	Row        int               `json:"row"`
	Identity   map[string]string `json:"identity"`
	Serial     string            `json:"serial,omitempty"`
	Station    string            `json:"station"`
	Released   time.Time         `json:"released"`
	SPKISHA256 string            `json:"spki_sha256"`
	LogSize    int64             `json:"log_size"`
	Now        pipeline.State    `json:"now,omitempty"` // as a bundle says, where one was given
	Notes      []string          `json:"notes"`         // what was not or cannot be checked
	Problems   []Problem         `json:"problems"`
}

// OK reports whether nothing is wrong.
func (d *Device) OK() bool { return len(d.Problems) == 0 }

func (d *Device) problem(format string, args ...any) {
	d.Problems = append(d.Problems, Problem{Text: Printable(fmt.Sprintf(format, args...))})
}

func (d *Device) remark(format string, args ...any) {
	d.Notes = append(d.Notes, Printable(fmt.Sprintf(format, args...)))
}

// Unit is the returned unit, as far as it can be read.
type Unit struct {
	SPKI     []byte            // of the key in its image, DER; empty if there is none to compare
	Identity map[string]string // what the unit itself says that it is; nil if that is not known
	Bundle   string            // folder of a bundle that says how the device stands since; may be empty
}

// VerifyUnit checks one unit against the proof of its release: the checkpoints are
// signed by a trusted key of the station (the station log's cosigned by every
// witness and stamped by an authority, where such are given), the event is in the
// log, key and identity of the unit are those that were recorded, and, with a
// bundle, the device is still released. Trust.Since is not used.
func VerifyUnit(ctx context.Context, proof *DeviceProof, unit Unit, trust Trust) (*Device, error) {
	if len(trust.Keys) == 0 {
		return nil, pipeline.WithHint(errors.New("no public key to verify with"), "give the station's public key")
	}
	d := &Device{}
	e, head, err := d.event(proof.Proof, trust)
	if err != nil {
		d.problem("%v", err)
		return d, nil
	}
	if err := d.head(proof, e.Station, head, trust); err != nil {
		d.problem("%v", err)
	}
	d.compare(unit)
	if unit.Bundle == "" {
		d.remark("how the device stands since then is not known: give a newer bundle")
		return d, nil
	}
	return d, d.since(ctx, unit.Bundle, trust)
}

// event checks the release's proof.
func (d *Device) event(proof []byte, trust Trust) (*eventLine, *checkpoint, error) {
	p, err := ParseProof(proof)
	if err != nil {
		return nil, nil, fmt.Errorf("the proof cannot be read: %w", err)
	}
	e, err := parseEvent(p.Event)
	if err != nil || e.Schema != eventSchema1 && e.Schema != eventSchema2 {
		return nil, nil, errors.New("the proof holds no event of a device")
	}
	c, err := p.open(trust.of(e.Station), nil)
	if err != nil {
		return nil, nil, err
	}
	epoch := max(int(e.Epoch), 1)
	if first := e.Schema == eventSchema1; first && c.origin != Origin(e.Station) || !first && c.origin != LotOrigin(e.Station, e.Lot, epoch) || e.Seq != p.Index+1 {
		return nil, nil, fmt.Errorf("the event is of station %s, seq %d, but lies elsewhere in the log of %s", e.Station, e.Seq, c.origin)
	}
	if e.Action != pipeline.ActionRelease {
		return nil, nil, fmt.Errorf("the event says %q: the device was not released by it", e.Action)
	}
	d.Lot, d.Row, d.Identity, d.Serial, d.Station = e.Lot, e.Row, attrMap(e.Device), e.Serial, e.Station
	d.Released, d.SPKISHA256, d.LogSize = e.Time, e.SPKISHA256, c.size
	return e, c, nil
}

// open verifies a proof: that a trusted key signed the checkpoint, and that the
// event is in its log.
func (p *Proof) open(keys []PublicKey, witnesses []*Witness) (*checkpoint, error) {
	if len(keys) == 0 {
		return nil, errors.New("none of the given keys is for this station")
	}
	c, err := openCheckpoint(p.Checkpoint, keys, witnesses)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint: %w", err)
	}
	if err := tlog.CheckRecord(p.Hashes, c.size, c.root, p.Index, tlog.Hash(pipeline.LeafHash(p.Event))); err != nil {
		return nil, errors.New("the event is not in the log that the checkpoint vouches for")
	}
	return c, nil
}

// head checks that the station log names the lot log's head, and the witnesses and
// time stamps of that log. In the first format there is one log for all.
func (d *Device) head(proof *DeviceProof, station string, lot *checkpoint, trust Trust) error {
	var signed []byte
	witnessed := lot
	if lot.origin == Origin(station) {
		p, err := ParseProof(proof.Proof)
		if err != nil {
			return err
		}
		if witnessed, err = p.open(trust.of(station), trust.Witnesses); err != nil {
			return err
		}
		signed = p.Checkpoint
		d.remark("the proof is of the first format: it is in the station's old log")
	} else {
		if len(proof.Head) == 0 {
			if len(trust.Witnesses) > 0 || trust.Authorities != nil {
				return errors.New("the proof of the lot's head is missing, which the witnesses and authorities vouch for")
			}
			d.remark("the proof of the lot's head in the station log was not given: the station may have shown others another lot log")
			return nil
		}
		p, err := ParseProof(proof.Head)
		if err != nil {
			return fmt.Errorf("the proof of the lot's head cannot be read: %w", err)
		}
		if witnessed, err = p.open(trust.of(station), trust.Witnesses); err != nil {
			return fmt.Errorf("the lot's head: %w", err)
		}
		e, err := parseEvent(p.Event)
		if err != nil || e.Action != actionLotHead || e.Seq != p.Index+1 || witnessed.origin != StationOrigin(e.Station, max(int(e.Epoch), 1)) {
			return errors.New("the proof of the lot's head is one of something else")
		}
		if named, err := e.head(); err != nil || named != (namedHead{lot.origin, lot.root.String(), lot.size}) {
			return errors.New("the station log names another head of the lot")
		}
		signed = p.Checkpoint
	}
	for _, w := range trust.Witnesses {
		if !cosignedBy(witnessed, w) {
			return fmt.Errorf("witness %s has not cosigned the checkpoint", w.name)
		}
	}
	return d.stamped(proof.Timestamp, signed, trust)
}

// stamped checks the time stamp of the checkpoint that counts.
func (d *Device) stamped(answer, signed []byte, trust Trust) error {
	if trust.Authorities == nil {
		return nil
	}
	if len(answer) == 0 {
		return errors.New("the checkpoint has no time stamp, and an authority is asked for")
	}
	t, err := parseTimestamp(answer)
	if err != nil {
		return err
	}
	if err := t.covers(uncosigned(signed)); err != nil {
		return err
	}
	signer, err := t.verify(trust.Authorities)
	if err == nil {
		d.remark("%s stamped the checkpoint at %s", signer.Subject, stamp(t.time))
	}
	return err
}

// uncosigned returns a checkpoint with its first signature only.
func uncosigned(signed []byte) []byte {
	body, signatures, _ := bytes.Cut(signed, []byte("\n\n"))
	first, _, _ := bytes.Cut(signatures, []byte("\n"))
	return slices.Concat(body, []byte("\n\n"), first, []byte("\n"))
}

// compare holds the unit against what was recorded.
func (d *Device) compare(unit Unit) {
	if len(unit.SPKI) > 0 && pipeline.Fingerprint(unit.SPKI) != d.SPKISHA256 {
		d.problem("the image's key is another one (sha256 %.16s..) than was recorded (%.16s..)", pipeline.Fingerprint(unit.SPKI), d.SPKISHA256)
	}
	if unit.Identity == nil {
		d.remark("the unit's own identity was not compared: a copy of this image in another unit has the same key")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(unit.Identity)) {
		recorded, ok := d.Identity[name]
		if !ok {
			d.problem("the recorded identity has no %q", name)
		} else if got := unit.Identity[name]; !strings.EqualFold(got, recorded) {
			d.problem("the unit says that its %s is %q, but the proof is of %q: a copy in another unit, or another unit's proof", name, got, recorded)
		}
	}
}

// since looks in a bundle how the device stands by now.
func (d *Device) since(ctx context.Context, dir string, trust Trust) error {
	r, err := VerifyBundle(ctx, dir, trust)
	if err != nil {
		return err
	}
	if !r.OK() {
		d.problem("the bundle does not verify: %s", r.Problems[0])
		return nil
	}
	if r.Lot != d.Lot {
		d.problem("the bundle is of lot %q, the proof of lot %q", r.Lot, d.Lot)
		return nil
	}
	d.Notes = append(d.Notes, r.Notes...)
	v := &verifier{dir: dir}
	for one, err := range v.listed {
		if err != nil {
			return err
		}
		if one.Row != d.Row {
			continue
		}
		d.Now = one.State
		switch {
		case one.State == pipeline.Undone:
			d.problem("the device was released, and undone since (as of %s)", r.Time)
		case one.State != pipeline.Released:
			d.problem("the device was released, and is %s since (as of %s)", one.State, r.Time)
		case one.SPKISHA256 != d.SPKISHA256:
			d.problem("the device was released with this key, and has another one since (as of %s)", r.Time)
		}
		return nil
	}
	d.problem("the bundle does not list the device")
	return nil
}

func cosignedBy(c *checkpoint, w *Witness) bool {
	for _, s := range c.note.Sigs {
		if s.Name == w.name && s.Hash == w.id {
			return true
		}
	}
	return false
}
