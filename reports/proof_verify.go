package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	Problems   []Problem         `json:"problems"`
}

// OK reports whether nothing is wrong.
func (d *Device) OK() bool { return len(d.Problems) == 0 }

// VerifyDevice checks one unit against its proof: the checkpoint is signed by a
// trusted key (and cosigned by every given witness), the event is in the log,
// and the key found in the unit's image, as SPKI in DER, is the one that was
// recorded. An empty spki leaves the last check out. Trust.Since is not used.
func VerifyDevice(proof []byte, trust Trust, spki []byte) (*Device, error) {
	if len(trust.Keys) == 0 {
		return nil, pipeline.WithHint(errors.New("no public key to verify with"), "give the station's public key")
	}
	d := &Device{}
	problem := func(format string, args ...any) (*Device, error) {
		d.Problems = append(d.Problems, Problem{Text: fmt.Sprintf(format, args...)})
		return d, nil
	}
	p, err := ParseProof(proof)
	if err != nil {
		return problem("the proof cannot be read: %v", err)
	}
	c, err := openCheckpoint(p.Checkpoint, trust.Keys, trust.Witnesses)
	if err != nil {
		return problem("the checkpoint: %v", err)
	}
	for _, w := range trust.Witnesses {
		if !cosignedBy(c, w) {
			return problem("witness %s has not cosigned the checkpoint", w.name)
		}
	}
	if err := tlog.CheckRecord(p.Hashes, c.size, c.root, p.Index, tlog.Hash(pipeline.LeafHash(p.Event))); err != nil {
		return problem("the event is not in the log that the checkpoint vouches for")
	}
	e, err := parseEvent(p.Event)
	if err != nil || e.Schema != eventSchema1 && e.Schema != eventSchema2 {
		return problem("what is in the log is not an event of a device")
	}
	*d = Device{Lot: e.Lot, Row: e.Row, Identity: attrMap(e.Device), Serial: e.Serial, Station: e.Station, Released: e.Time,
		SPKISHA256: e.SPKISHA256, LogSize: c.size}
	switch {
	case Origin(e.Station) != c.origin || e.Seq != p.Index+1:
		return problem("the event is of station %s, seq %d, but lies elsewhere in the log of %s", e.Station, e.Seq, c.origin)
	case e.Action != pipeline.ActionRelease:
		return problem("the event says %q: the device was not released by it", e.Action)
	case len(spki) > 0 && pipeline.Fingerprint(spki) != e.SPKISHA256:
		return problem("the image's key is another one (sha256 %.16s..) than was recorded (%.16s..)",
			pipeline.Fingerprint(spki), e.SPKISHA256)
	}
	return d, nil
}

func cosignedBy(c *checkpoint, w *Witness) bool {
	for _, s := range c.note.Sigs {
		if s.Name == w.name && s.Hash == w.id {
			return true
		}
	}
	return false
}

// findRow finds a device in devices.jsonl by an identity value or its serial.
func findRow(dir, device string) (int, error) {
	lines, err := openLines(dir, fileDevices)
	if err != nil {
		return 0, err
	}
	defer lines.close()
	quoted, err := json.Marshal(device)
	if err != nil {
		return 0, err
	}
	lower := bytes.ToLower(quoted)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return 0, pipeline.WithHint(fmt.Errorf("no device %q in this bundle", device),
				"give one of its identity's values, or its serial")
		}
		if err != nil {
			return 0, err
		}
		if !bytes.Contains(bytes.ToLower(line), lower) {
			continue // decoding is what takes time
		}
		var d deviceLine
		if err := json.Unmarshal(line, &d); err != nil {
			return 0, flawed(fileDevices, "line %d: %v", lines.number, err)
		}
		if d.is(device) {
			return d.Row, nil
		}
	}
}

// is reports whether a device is meant by a name. Letters may be of either case
// where the recorded value is lower case, as MACs are.
func (d *deviceLine) is(name string) bool {
	same := func(v string) bool { return v == name || v == strings.ToLower(name) }
	for _, v := range d.Identity {
		if same(v) {
			return true
		}
	}
	serial, ok := d.Attributes["serial"]
	return ok && same(serial)
}

// bundleHeads reads the statement's heads without verifying anything: what is
// made from them is checked against a signed checkpoint.
func bundleHeads(dir string) ([]LogHead, error) {
	data, err := os.ReadFile(filepath.Join(dir, fileStatement))
	if err != nil {
		return nil, err
	}
	payload, err := envelopePayload(data)
	if err != nil {
		return nil, flawed(fileStatement, "%v", err)
	}
	st, err := parseStatement(payload)
	if err != nil {
		return nil, flawed(fileStatement, "%v", err)
	}
	return st.Predicate.Logs, nil
}
